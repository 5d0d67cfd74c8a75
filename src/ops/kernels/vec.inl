// A vector of floats of the target's width, on the compiler's vector extension: arithmetic
// operators come with it, here are loads and stores (fp32, bf16; full and partial), reductions and
// exp. bf16 stores round to nearest even, as c10::BFloat16 does.
#pragma once

#include <stdint.h>

#include "ops/kernels/kernel.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace vax::ops::VAX_KERNEL_TARGET {

constexpr int kLanes = VAX_VECTOR_BYTES / 4;

typedef float VecF __attribute__((vector_size(VAX_VECTOR_BYTES)));
typedef int32_t VecI __attribute__((vector_size(VAX_VECTOR_BYTES)));
typedef uint32_t VecU __attribute__((vector_size(VAX_VECTOR_BYTES)));
typedef uint64_t VecU64 __attribute__((vector_size(VAX_VECTOR_BYTES)));
typedef uint16_t VecHalf __attribute__((vector_size(VAX_VECTOR_BYTES / 2)));

#if VAX_VECTOR_BYTES == 64
constexpr VecI kIota = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif VAX_VECTOR_BYTES == 32
constexpr VecI kIota = {0, 1, 2, 3, 4, 5, 6, 7};
#else
constexpr VecI kIota = {0, 1, 2, 3};
#endif

inline VecF splat(float value) { return value - VecF{}; }
inline VecI splat_i(int32_t value) { return value - VecI{}; }
inline VecU splat_u(uint32_t value) { return value - VecU{}; }

// How many lanes of an access exist: all, or the first `count` (the others load as 0 and are not
// stored). Both run the same arithmetic, so a tail's bits equal those of a full vector.
struct Full {};
struct Part {
  int64_t count;
};

template <typename T>
inline void copy_bytes(T* to, const T* from, int64_t count) {
  __builtin_memcpy(to, from, static_cast<uint64_t>(count) * sizeof(T));
}

// Lanes of 16 bits to 32 and back (the low half). g++ 12 has no one instruction for the generic
// form.
inline VecU widen(VecHalf half) {
#if VAX_VECTOR_BYTES == 64  // the maskz forms: g++ 12 warns of the others' undefined operand
  return reinterpret_cast<VecU>(
      _mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(half)));
#elif VAX_VECTOR_BYTES == 32
  return reinterpret_cast<VecU>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(half)));
#else
  return __builtin_convertvector(half, VecU);
#endif
}
inline VecHalf narrow(VecU v) {
#if VAX_VECTOR_BYTES == 64
  return reinterpret_cast<VecHalf>(
      _mm512_maskz_cvtepi32_epi16(0xffff, reinterpret_cast<__m512i>(v)));
#else
  return __builtin_convertvector(v, VecHalf);
#endif
}

inline VecF load(const float* from, Full) {
  VecF v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
inline VecF load(const Bf16* from, Full) {
  VecHalf half;
  __builtin_memcpy(&half, from, sizeof half);
  return reinterpret_cast<VecF>(widen(half) << 16);
}
inline void store(float* to, VecF v, Full) { __builtin_memcpy(to, &v, sizeof v); }
inline void store(Bf16* to, VecF v, Full) {
  const VecU bits = reinterpret_cast<VecU>(v);
  const VecU rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecHalf half = narrow(v == v ? rounded : splat_u(0x7fc0u));
  __builtin_memcpy(to, &half, sizeof half);
}
// Rows of attention scores end anywhere: their tails are worth the masked instructions.
#if VAX_VECTOR_BYTES == 64
inline __mmask16 lane_mask(Part part) { return static_cast<__mmask16>((1u << part.count) - 1u); }
inline VecF load(const float* from, Part part) {
  return reinterpret_cast<VecF>(_mm512_maskz_loadu_ps(lane_mask(part), from));
}
inline void store(float* to, VecF v, Part part) {
  _mm512_mask_storeu_ps(to, lane_mask(part), reinterpret_cast<__m512>(v));
}
#elif VAX_VECTOR_BYTES == 32
inline __m256i lane_mask(Part part) {
  return reinterpret_cast<__m256i>(kIota < splat_i(static_cast<int32_t>(part.count)));
}
inline VecF load(const float* from, Part part) {
  return reinterpret_cast<VecF>(_mm256_maskload_ps(from, lane_mask(part)));
}
inline void store(float* to, VecF v, Part part) {
  _mm256_maskstore_ps(to, lane_mask(part), reinterpret_cast<__m256>(v));
}
#endif
template <typename T>
inline VecF load(const T* from, Part part) {
  T buffer[kLanes] = {};
  copy_bytes(buffer, from, part.count);
  return load(buffer, Full{});
}
template <typename T>
inline void store(T* to, VecF v, Part part) {
  T buffer[kLanes];
  store(buffer, v, Full{});
  copy_bytes(to, buffer, part.count);
}

template <typename T>
inline VecF load(const T* from) {
  return load(from, Full{});
}
template <typename T>
inline void store(T* to, VecF v) {
  store(to, v, Full{});
}

// body(i, Full or Part) for i = begin, begin + kLanes, ... below end.
template <typename Body>
inline void for_vectors(int64_t begin, int64_t end, Body body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, Full{});
  if (i < end) body(i, Part{end - i});
}

// a * b + c, rounded once where the target can. Only what is written so is fused (the sources are
// compiled with -ffp-contract=off).
inline VecF multiply_add(VecF a, VecF b, VecF c) {
#if VAX_VECTOR_BYTES == 64
  return reinterpret_cast<VecF>(_mm512_fmadd_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif VAX_VECTOR_BYTES == 32
  return reinterpret_cast<VecF>(_mm256_fmadd_ps(
      reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}
inline VecF multiply_add(VecF a, float b, VecF c) { return multiply_add(a, splat(b), c); }

inline VecF max(VecF a, VecF b) { return a < b ? b : a; }  // a when unordered

// Lane i is lane from[i] of `a`, or of `a` and `b` side by side.
#ifdef __clang__  // which has this for constants only
inline VecF shuffle(VecF a, VecF b, VecI from) {
  VecF result = {};
  for (int i = 0; i < kLanes; ++i) result[i] = from[i] < kLanes ? a[from[i]] : b[from[i] - kLanes];
  return result;
}
#else
inline VecF shuffle(VecF a, VecF b, VecI from) { return __builtin_shuffle(a, b, from); }
#endif

template <typename Combine>
inline float reduce(VecF v, Combine combine) {
#pragma GCC unroll 4
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    v = combine(v, shuffle(v, v, kIota ^ distance));
  }
  return v[0];
}
inline float sum_lanes(VecF v) {
  return reduce(v, [](VecF a, VecF b) { return a + b; });
}
inline float max_lanes(VecF v) {
  return reduce(v, [](VecF a, VecF b) { return max(a, b); });
}

// The sum over [0, n) of what add(i, Full or Part, sum) adds to a running sum, nothing in lanes
// that do not exist. Four sums hide the latency of the additions.
template <typename Add>
inline float sum_over(int64_t n, Add add) {
  VecF sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) sum[k] = add(i + k * kLanes, Full{}, sum[k]);
  }
  for_vectors(i, n, [&](int64_t j, auto part) { sum[0] = add(j, part, sum[0]); });
  return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// v in the lanes that exist, other in the rest.
inline VecF existing_or(VecF v, VecF, Full) { return v; }
inline VecF existing_or(VecF v, VecF other, Part part) {
  return kIota < splat_i(static_cast<int32_t>(part.count)) ? v : other;
}

// Largest of n >= 1 elements. A NaN may be lost; the exponentials that follow bring it back.
template <typename T>
inline float max_of(const T* from, int64_t n) {
  VecF largest = splat(load(from, Part{1})[0]);
  for_vectors(0, n, [&](int64_t i, auto part) {
    largest = max(existing_or(load(from + i, part), largest, part), largest);
  });
  return max_lanes(largest);
}

// exp, error below 2 ulp where the result is normal; 0 below -104, infinity above 88.73, NaN stays.
// Cody-Waite reduction by ln 2 in two parts, the minimax polynomial of Cephes' expf, and a scaling
// by 2^n in two factors so that both ends of the range are exact.
inline VecF exp(VecF x) {
  x = x < -104.0f ? splat(-104.0f) : x;
  x = x > 89.0f ? splat(89.0f) : x;
  const VecF shifter = splat(0x1.8p23f);  // adding it rounds to an integer in the low bits
  const VecF shifted = multiply_add(x, 0x1.715476p0f, shifter);
  const VecF n = shifted - shifter;
  const VecI exponent = reinterpret_cast<VecI>(shifted) - reinterpret_cast<VecI>(shifter);
  const VecF r = multiply_add(n, 2.12194440e-4f, multiply_add(n, -0.693359375f, x));
  VecF p = splat(1.9875691500e-4f);
  p = multiply_add(p, r, splat(1.3981999507e-3f));
  p = multiply_add(p, r, splat(8.3334519073e-3f));
  p = multiply_add(p, r, splat(4.1665795894e-2f));
  p = multiply_add(p, r, splat(1.6666665459e-1f));
  p = multiply_add(p, r, splat(5.0000001201e-1f));
  p = multiply_add(p, r * r, r) + 1.0f;
  const VecI half = exponent >> 1;
  const VecF low = reinterpret_cast<VecF>((half + 127) << 23);
  const VecF high = reinterpret_cast<VecF>((exponent - half + 127) << 23);
  return p * low * high;
}

inline VecF sqrt(VecF v) {
  VecF root;
  for (int lane = 0; lane < kLanes; ++lane) root[lane] = __builtin_sqrtf(v[lane]);
  return root;
}

inline VecF sigmoid(VecF x) { return 1.0f / (1.0f + exp(-x)); }

// v where the mask's bit of channel c + lane is 1, else 0. REQUIRES c a multiple of kLanes; reads
// the bytes that hold these bits, kLanes / 8 rounded up.
inline VecF keep(VecF v, const uint8_t* mask, int64_t c) {
  uint32_t bits = 0;
  if constexpr (kLanes == 16) {
    uint16_t two_bytes;
    __builtin_memcpy(&two_bytes, mask + c / 8, sizeof two_bytes);
    bits = two_bytes;  // little-endian, as every target with 16 lanes is
  } else {
    bits = static_cast<uint32_t>(mask[c / 8]) >> (c % 8);
  }
  const VecU lane_bit = splat_u(1) << reinterpret_cast<VecU>(kIota);
  return (splat_u(bits) & lane_bit) != 0u ? v : VecF{};
}

template <typename T>
inline const T* row_of(ConstRows rows, int64_t row) {
  return static_cast<const T*>(rows.data) + row * rows.stride;
}
template <typename T>
inline T* row_of(Rows rows, int64_t row) {
  return static_cast<T*>(rows.data) + row * rows.stride;
}

// The type of a row's elements by that of the pointer to them.
template <typename T>
T elem_of(const T*);
template <typename Pointer>
using RowElem = decltype(elem_of(Pointer()));

// Calls body(pointer to float or Bf16) with a row of either type.
template <typename AnyRows, typename Body>
inline void with_row(AnyRows rows, int64_t row, Body body) {
  if (rows.elem == Elem::kFloat) {
    body(row_of<float>(rows, row));
  } else {
    body(row_of<Bf16>(rows, row));
  }
}

}  // namespace vax::ops::VAX_KERNEL_TARGET
