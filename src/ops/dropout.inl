// Dropout masks: the Philox4x32-10 of base/philox.h, kLanes / 2 counters in the 64-bit lanes of a
// vector and four vectors side by side (the rounds of one counter depend on each other).
#include "ops/dropout.h"
#include "ops/kernels/vec.inl"

namespace vax::ops::VAX_KERNEL_TARGET {

constexpr int kCounterLanes = kLanes / 2;
constexpr int kChains = 4;

inline VecU64 splat_64(uint64_t value) { return value - VecU64{}; }

// The product of the low halves of 64-bit lanes.
inline VecU64 multiply_low(VecU64 a, VecU64 b) {
#if VAX_VECTOR_BYTES == 64
  return reinterpret_cast<VecU64>(
      _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif VAX_VECTOR_BYTES == 32
  return reinterpret_cast<VecU64>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<VecU64>(
      _mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// Words of the counters; only the low 32 bits of a lane count.
struct PhiloxLanes {
  VecU64 word[4];
};

inline void philox_round(PhiloxLanes& c, uint32_t key0, uint32_t key1) {
  const VecU64 p0 = multiply_low(c.word[0], splat_64(0xD2511F53u));
  const VecU64 p1 = multiply_low(c.word[2], splat_64(0xCD9E8D57u));
  c.word[0] = (p1 >> 32) ^ c.word[1] ^ splat_64(key0);
  c.word[2] = (p0 >> 32) ^ c.word[3] ^ splat_64(key1);
  c.word[1] = p1;
  c.word[3] = p0;
}

// One byte per lane: bit j is set when the j-th 16 bits of the draw are at least the threshold.
// The sign of (threshold - 1 - bits) says so without a 64-bit comparison, which SSE2 lacks.
inline VecU64 kept_bits(const PhiloxLanes& draw, uint32_t threshold) {
  const VecU64 low_limit = splat_64(uint64_t{threshold} - 1);
  const VecU64 high_limit = splat_64((uint64_t{threshold} << 16) - 1);
  VecU64 kept = {};
  for (int j = 3; j >= 0; --j) {
    const VecU64 high_sign = (high_limit - (draw.word[j] & 0xffffffffu)) >> 63;
    const VecU64 low_sign = (low_limit - (draw.word[j] & 0xffffu)) >> 63;
    kept = (kept << 2) | (high_sign << 1) | low_sign;
  }
  return kept;
}

inline void store_bytes(uint8_t* to, VecU64 v) {
#if VAX_VECTOR_BYTES == 64
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to),
                   _mm512_maskz_cvtepi64_epi8(0xff, reinterpret_cast<__m512i>(v)));
#else
  for (int lane = 0; lane < kCounterLanes; ++lane) to[lane] = static_cast<uint8_t>(v[lane]);
#endif
}

inline void draw_mask_row(const MaskArgs& args, int64_t row, uint8_t* mask) {
  VecU64 lane_index;
  for (int lane = 0; lane < kCounterLanes; ++lane) lane_index[lane] = static_cast<uint64_t>(lane);
  for (int64_t group = 0; group < args.num_groups; group += kChains * kCounterLanes) {
    PhiloxLanes draw[kChains];
    for (int k = 0; k < kChains; ++k) {
      const int64_t first = group + k * kCounterLanes;
      draw[k] = {{splat_64(static_cast<uint32_t>(args.rows[row])),
                  splat_64(static_cast<uint32_t>(args.positions[row])), splat_64(args.site),
                  splat_64(static_cast<uint64_t>(first)) + lane_index}};
    }
    uint32_t key0 = args.key[0], key1 = args.key[1];
    for (int round = 0; round < 10; ++round) {
      for (int k = 0; k < kChains; ++k) philox_round(draw[k], key0, key1);
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    for (int k = 0; k < kChains; ++k) {
      store_bytes(mask + group + k * kCounterLanes, kept_bits(draw[k], args.threshold));
    }
  }
}

void draw_mask(const MaskArgs& args, int64_t begin, int64_t end, uint8_t* mask) {
  for (int64_t row = begin; row < end; ++row) {
    draw_mask_row(args, row, mask + (row - begin) * mask_row_bytes(args.num_groups));
  }
}

const DropoutKernels dropout_kernels = {.draw_mask = draw_mask};

}  // namespace vax::ops::VAX_KERNEL_TARGET
