// bf16 to 8-bit floats (e4m3: 4 bits of exponent, 3 of mantissa, no infinity, at most 448) with one
// fp32 scale per row. A row is read twice by one block, the second time from cache; the transposed
// copy goes through tiles of shared memory, so that both sides are read and written by lines.
//
// Scales come from the largest magnitude that is a number. An infinite one makes the row's scale
// infinite and its own element NaN, so that products with that row are NaN and never just wrong.
#include "ops/device/launch.h"
#include "ops/quantise.h"

namespace vax::ops::device {
namespace {

constexpr float kMostE4m3 = 448.0f;
// Scales are at least the smallest normal number, so that their inverse is finite.
constexpr float kLeastScale = 1.17549435e-38f;
constexpr int kThreads = 256;
constexpr int kPerThread = 8;
constexpr int kTile = 64;  // rows and columns of a transposed tile

// To the nearest, ties to even, the bits of c10::Float8_e4m3fn: above 464 and all that is not
// finite become NaN.
__device__ __forceinline__ uint8_t to_e4m3(float x) {
  const auto bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t sign = (bits >> 24) & 0x80u, magnitude = bits & 0x7fffffffu;
  constexpr uint32_t kTooLarge = 0x43f00000u;     // 480
  constexpr uint32_t kLeastNormal = 0x3c800000u;  // 2^-6
  uint32_t rounded = 0x7fu;
  if (magnitude < kLeastNormal) {
    // Added to 2^14, whose last place is 2^-9, the processor rounds to the subnormals' steps.
    const float shifted = __builtin_bit_cast(float, magnitude) + 16384.0f;
    rounded = __builtin_bit_cast(uint32_t, shifted) - 0x46800000u;
  } else if (magnitude < kTooLarge) {
    const uint32_t odd = (magnitude >> 20) & 1u;
    rounded = (magnitude + 0x7ffffu + odd - (120u << 23)) >> 20;
  }
  return static_cast<uint8_t>(sign | rounded);
}

__device__ __forceinline__ float scale_of(float largest) {
  if (largest == 0.0f) return 1.0f;
  return fmaxf(largest / kMostE4m3, kLeastScale);
}

template <bool kWide>
__device__ __forceinline__ void load_part(const QuantiseArgs& args, const Bf16* row, int64_t col,
                                          float (&x)[kPerThread]) {
  if constexpr (kWide) {
    load(row + col, x);
  } else {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) x[j] = col + j < args.cols ? to_float(row[col + j]) : 0.0f;
  }
  if (args.col_factors == nullptr) return;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    if (kWide || col + j < args.cols) x[j] *= args.col_factors[col + j];
  }
}

template <bool kWide>
__global__ void __launch_bounds__(kThreads)
    quantise_rows(QuantiseArgs args, uint8_t* q, float* scales) {
  const int64_t row = blockIdx.x;
  const Bf16* x_row = row_of<Bf16>(args.x, row);
  float largest = 0.0f;
  for (int64_t col = threadIdx.x * kPerThread; col < args.cols; col += kThreads * kPerThread) {
    float x[kPerThread];
    load_part<kWide>(args, x_row, col, x);
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) largest = fmaxf(largest, fabsf(x[j]));  // passes over NaN
  }
  const float scale = scale_of(block_max(largest));
  if (threadIdx.x == 0) scales[row] = scale;
  if (q == nullptr) return;
  const float inverse = 1.0f / scale;
  for (int64_t col = threadIdx.x * kPerThread; col < args.cols; col += kThreads * kPerThread) {
    float x[kPerThread];
    load_part<kWide>(args, x_row, col, x);
    uint8_t* to = q + row * args.cols + col;
    if constexpr (kWide) {
      uint32_t words[2] = {0, 0};
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) {
        words[j / 4] |= static_cast<uint32_t>(to_e4m3(x[j] * inverse)) << (j % 4 * 8);
      }
      store_words(to, words);
    } else {
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) {
        if (col + j < args.cols) to[j] = to_e4m3(x[j] * inverse);
      }
    }
  }
}

// Block (x, y): a tile's columns and rows. REQUIRES rows that are a multiple of 4.
__global__ void __launch_bounds__(kThreads)
    quantise_transposed(QuantiseArgs args, const float* scales, uint8_t* q) {
  VAX_SHARED(uint8_t, tile, [kTile][kTile + 4]);
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t first_col = static_cast<int64_t>(blockIdx.x) * kTile;
  for (int at = static_cast<int>(threadIdx.x); at < kTile * kTile; at += kThreads) {
    const int i = at / kTile, j = at % kTile;
    const int64_t row = first_row + i, col = first_col + j;
    if (row >= args.rows || col >= args.cols) continue;
    float x = to_float(row_of<Bf16>(args.x, row)[col]);
    if (args.col_factors != nullptr) x *= args.col_factors[col];
    tile[j][i] = to_e4m3(x * (1.0f / scales[row]));
  }
  __syncthreads();
  constexpr int kWords = kTile / 4;  // of a column of the tile
  for (int at = static_cast<int>(threadIdx.x); at < kTile * kWords; at += kThreads) {
    const int j = at / kWords, i = at % kWords * 4;
    const int64_t row = first_row + i, col = first_col + j;
    if (row >= args.rows || col >= args.cols) continue;
    uint32_t word = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) word |= static_cast<uint32_t>(tile[j][i + k]) << (8 * k);
    *reinterpret_cast<uint32_t*>(q + col * args.rows + row) = word;
  }
}

void launch_quantise_rows(const QuantiseArgs& args, uint8_t* q, float* scale) {
  const bool is_wide = vectors_fit(args.x, args.cols, kPerThread);
  launch(is_wide ? quantise_rows<true> : quantise_rows<false>, grid_of(args.rows), dim3(kThreads),
         args, q, scale);
}

void launch_quantise_transposed(const QuantiseArgs& args, const float* scale, uint8_t* q) {
  const dim3 grid(grid_of(blocks_for(args.cols, kTile)).x, grid_of(blocks_for(args.rows, kTile)).x);
  launch(quantise_transposed, grid, dim3(kThreads), args, scale, q);
}

}  // namespace

const QuantiseKernels quantise_kernels = {.rows = launch_quantise_rows,
                                          .transposed = launch_quantise_transposed};

}  // namespace vax::ops::device
