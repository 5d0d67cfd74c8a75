// What the kernels (*.cu) share: vectors of elements, sums over the threads of a warp and of a
// block, grids. What is CUDA's own, and how a kernel is launched, is in kernel_primitives.h, of
// which there are two: device/cuda has the one for GPUs, tests/standin/kernels the one for the
// host.
//
// Invariants that are easy to break:
//  - every thread of a block calls block_sum() and its like, also those without work;
//  - shared memory is declared by VAX_SHARED and is at most 48 KB per kernel;
//  - sums are made in an order that depends on sizes only.
#pragma once

#include <kernel_primitives.h>

#include <cstdint>
#include <type_traits>

#include "base/error.h"
#include "ops/kernels/kernel.h"

namespace vax::ops::device {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kWarpSize = 32;

constexpr int64_t blocks_for(int64_t count, int64_t per_block) {
  return (count + per_block - 1) / per_block;
}

// THROWS std::logic_error beyond CUDA's limit of blocks along x.
inline dim3 grid_of(int64_t num_blocks) {
  VAX_CHECK(num_blocks >= 0 && num_blocks < (int64_t{1} << 31), num_blocks,
            " blocks are more than a grid has");
  return dim3(static_cast<unsigned>(num_blocks));
}

// Calls use(T{}) with the type of the elements.
template <typename Use>
void with_elem(Elem elem, const Use& use) {
  if (elem == Elem::kFloat) {
    use(float{});
  } else {
    use(Bf16{});
  }
}

constexpr int64_t elem_bytes(Elem elem) { return elem == Elem::kFloat ? 4 : 2; }

// Do all rows begin at a multiple of what `width` elements take, 16 bytes at most?
inline bool rows_aligned(ConstRows rows, int width) {
  const int64_t bytes = width * elem_bytes(rows.elem);
  const int64_t unit = bytes < 16 ? bytes : 16;
  return reinterpret_cast<uintptr_t>(rows.data) % unit == 0 &&
         rows.stride * elem_bytes(rows.elem) % unit == 0;
}
// Are they whole vectors of that width as well?
inline bool vectors_fit(ConstRows rows, int64_t cols, int width) {
  return cols % width == 0 && rows_aligned(rows, width);
}

// Row of a kernel's argument.
template <typename T>
__device__ __forceinline__ const T* row_of(const ConstRows& rows, int64_t row) {
  return static_cast<const T*>(rows.data) + row * rows.stride;
}
template <typename T>
__device__ __forceinline__ T* row_of(const Rows& rows, int64_t row) {
  return static_cast<T*>(rows.data) + row * rows.stride;
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(Bf16 x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16);
}

template <typename T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return x;
  } else {
    return to_bf16(x);
  }
}

// The bits of 4 bytes' worth of elements.
__device__ __forceinline__ void unpack(uint32_t word, float (&to)[1]) {
  to[0] = __builtin_bit_cast(float, word);
}
__device__ __forceinline__ void unpack(uint32_t word, float (&to)[2]) {
  to[0] = __builtin_bit_cast(float, word << 16);
  to[1] = __builtin_bit_cast(float, word & 0xffff0000u);
}
__device__ __forceinline__ uint32_t pack(const float (&from)[1]) {
  return __builtin_bit_cast(uint32_t, from[0]);
}
__device__ __forceinline__ uint32_t pack(const float (&from)[2]) {
  return to_bf16_pair(from[0], from[1]);
}

// W elements to and from fp32, 16 bytes at a time (8 if there are no more). W is 1, 4 or 8.
// REQUIRES rows_aligned(); for store() that `to` is global memory.
template <int W, typename T>
__device__ __forceinline__ void load(const T* from, float (&to)[W]) {
  if constexpr (W == 1) {
    to[0] = to_float(*from);
  } else {
    constexpr int kPerWord = 4 / sizeof(T), kWords = W / kPerWord < 4 ? W / kPerWord : 4;
#pragma unroll
    for (int i = 0; i < W; i += kWords * kPerWord) {
      uint32_t words[kWords];
      load_words(from + i, words);
#pragma unroll
      for (int j = 0; j < kWords; ++j) {
        float part[kPerWord];
        unpack(words[j], part);
        for (int k = 0; k < kPerWord; ++k) to[i + j * kPerWord + k] = part[k];
      }
    }
  }
}
template <int W, typename T>
__device__ __forceinline__ void store(T* to, const float (&from)[W]) {
  if constexpr (W == 1) {
    *to = from_float<T>(from[0]);
  } else {
    constexpr int kPerWord = 4 / sizeof(T), kWords = W / kPerWord < 4 ? W / kPerWord : 4;
#pragma unroll
    for (int i = 0; i < W; i += kWords * kPerWord) {
      uint32_t words[kWords];
#pragma unroll
      for (int j = 0; j < kWords; ++j) {
        float part[kPerWord];
        for (int k = 0; k < kPerWord; ++k) part[k] = from[i + j * kPerWord + k];
        words[j] = pack(part);
      }
      store_words(to + i, words);
    }
  }
}

// The vector at `col` of a row of `cols` elements, the last one perhaps in part; beyond the row's
// end it is `beyond`, and nothing is written. kAligned: rows_aligned().
template <bool kAligned, int N, typename T>
__device__ __forceinline__ void load_vector(const T* row, int64_t col, int64_t cols, float (&to)[N],
                                            float beyond = 0) {
  if (kAligned && col + N <= cols) {
    load(row + col, to);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = col + i < cols ? to_float(row[col + i]) : beyond;
  }
}
template <bool kAligned, int N, typename T>
__device__ __forceinline__ void store_vector(T* row, int64_t col, int64_t cols,
                                             const float (&from)[N]) {
  if (kAligned && col + N <= cols) {
    store(row + col, from);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (col + i < cols) row[col + i] = from_float<T>(from[i]);
    }
  }
}

// exp and 1 / x as accurately as a result of type T needs them. fp32: that of the mathematics
// library; bf16: the processor's own (relative error about 2e-6 where |x| < 20).
template <typename T>
__device__ __forceinline__ float exp_for(float x) {
  if constexpr (sizeof(T) == sizeof(float)) return expf(x);
  return fast_exp(x);
}
template <typename T>
__device__ __forceinline__ float inverse_for(float x) {
  if constexpr (sizeof(T) == sizeof(float)) return 1.0f / x;
  return fast_inverse(x);
}

// Over the warp, by halves (lane i with i ^ 16, then ^ 8, ...): every lane gets the same bits.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, distance);
  }
  return value;
}
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, distance));
  }
  return value;
}

// Replaces N values by their sums over the block; warps first, then the warps' sums in the same
// way. REQUIRES blocks that extend along x only. Every thread gets the sums.
template <typename T, int N>
__device__ __forceinline__ void block_sums(T (&values)[N]) {
  VAX_SHARED(T, sums, [N][kWarpSize]);
  const unsigned warp = threadIdx.x / kWarpSize, lane_id = threadIdx.x % kWarpSize;
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = warp_sum(values[i]);
  if (lane_id == 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i][warp] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; ++i) {
    values[i] = warp_sum(lane_id < blockDim.x / kWarpSize ? sums[i][lane_id] : T{0});
  }
  __syncthreads();  // the next call writes
}
template <typename T>
__device__ __forceinline__ T block_sum(T value) {
  T values[1] = {value};
  block_sums(values);
  return values[0];
}
__device__ __forceinline__ float block_max(float value) {
  VAX_SHARED(float, maxima, [kWarpSize]);
  value = warp_max(value);
  if (threadIdx.x % kWarpSize == 0) maxima[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  const unsigned lane_id = threadIdx.x % kWarpSize;
  value = warp_max(maxima[lane_id < blockDim.x / kWarpSize ? lane_id : 0]);
  __syncthreads();
  return value;
}

// Where a thread of an elementwise kernel stands: W elements of one row. Blocks are numbered row by
// row, so that neighbours read neighbouring memory.
struct RowPlace {
  int64_t row, col;
};
struct RowGrid {
  dim3 grid, block;
  unsigned blocks_per_row;
};
inline RowGrid row_grid(int64_t rows, int64_t cols, int width) {
  constexpr int64_t kMostThreads = 256;
  const int64_t vectors = blocks_for(cols, width);
  const int64_t per_row = blocks_for(vectors, kMostThreads);
  const int64_t threads =
      per_row == 0 ? kWarpSize : blocks_for(blocks_for(vectors, per_row), kWarpSize) * kWarpSize;
  return {grid_of(rows * per_row), dim3(static_cast<unsigned>(threads)),
          static_cast<unsigned>(per_row)};
}
// col is beyond the row for threads without work.
__device__ __forceinline__ RowPlace row_place(unsigned blocks_per_row, int width) {
  const unsigned row = blockIdx.x / blocks_per_row;
  const unsigned block = blockIdx.x - row * blocks_per_row;
  return {row, (static_cast<int64_t>(block) * blockDim.x + threadIdx.x) * width};
}

// A row that one block works on: its threads share the vectors of N elements in turn. A thread
// loads the first kKept of its own at once, so that they are under way together, and keeps them.
// Which elements a thread has depends on the row's length only, not on where rows begin: so do
// sums.
constexpr int kKept = 4;
inline dim3 threads_of_row(int64_t cols, int width, unsigned most_threads) {
  const int64_t wanted = blocks_for(blocks_for(cols, width * kKept), kWarpSize) * kWarpSize;
  const int64_t at_least = wanted < kWarpSize ? kWarpSize : wanted;
  return dim3(at_least < most_threads ? static_cast<unsigned>(at_least) : most_threads);
}
// Where the thread's k-th vector begins.
template <int N>
__device__ __forceinline__ int64_t col_of(int k) {
  return (static_cast<int64_t>(k) * blockDim.x + threadIdx.x) * N;
}
// Kept vectors; 0 beyond the row's end.
template <int N>
struct KeptRow {
  float at[kKept][N];

  template <bool kAligned, typename T>
  __device__ __forceinline__ void load_from(const T* row, int64_t cols) {
#pragma unroll
    for (int k = 0; k < kKept; ++k) load_vector<kAligned>(row, col_of<N>(k), cols, at[k]);
  }
};
// Calls use(col) for the thread's vectors that are not kept.
template <int N, typename Use>
__device__ __forceinline__ void for_rest(int64_t cols, const Use& use) {
  const int64_t step = static_cast<int64_t>(blockDim.x) * N;
  for (int64_t col = col_of<N>(kKept); col < cols; col += step) use(col);
}

// Calls use(T{}, std::bool_constant) for an element type and an alignment.
template <typename Use>
void with_layout(Elem elem, bool aligned, const Use& use) {
  with_elem(elem, [&](auto element) {
    if (aligned) {
      use(element, std::true_type());
    } else {
      use(element, std::false_type());
    }
  });
}

// Calls use(T1{}, T2{}, std::bool_constant).
template <typename Use>
void with_types(Elem first, Elem second, bool is_aligned, const Use& use) {
  with_elem(first, [&](auto a) {
    with_layout(second, is_aligned, [&](auto b, auto aligned) { use(a, b, aligned); });
  });
}

}  // namespace vax::ops::device
