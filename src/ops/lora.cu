// The low-rank branch (ops/lora.h). A thread owns groups of 8 channels, which is what
// one draw of Philox decides (ops/dropout.h), so that masks are drawn where they are applied and
// never stored. x and y pass through once: x A^T keeps four tokens of a warp in registers, U A
// eight tokens, and U^T X walks the tokens with its sums in registers; A comes from the caches.
//
// Sums over tokens or over columns that are shared between blocks go through partial sums, whose
// number depends on the shapes only.
#include "ops/lora.h"

#include <algorithm>

#include "ops/device/launch.h"
#include "ops/device/mask.h"

namespace vax::ops::device {
namespace {

// Blocks that keep a large GPU busy: two on each of 132 multiprocessors.
constexpr int64_t kManyBlocks = 264;

// --- U = factor * mask(X) A^T --------------------------------------------------------------------

constexpr int kXatTokens = 4;  // of a warp
constexpr int kXatRanks = 8;   // of a block; more ranks read X again, from cache
constexpr int kXatWarps = 4;
constexpr int64_t kXatColumns = kWarpSize * kMaskGroup;  // of a warp's step

struct XatPlan {
  int64_t row_blocks, rank_tiles, splits, split_cols;
};

XatPlan xat_plan(const ThinArgs& thin) {
  constexpr int64_t kFewestSteps = 2;  // repay the sums over lanes
  const int64_t row_blocks = blocks_for(thin.rows, kXatTokens * kXatWarps);
  const int64_t rank_tiles = blocks_for(thin.rank, kXatRanks);
  const int64_t steps = blocks_for(thin.cols, kXatColumns);
  const int64_t wanted = blocks_for(kManyBlocks, std::max<int64_t>(1, row_blocks * rank_tiles));
  const int64_t most = std::max<int64_t>(1, steps / kFewestSteps);
  const int64_t split_steps =
      std::max<int64_t>(1, blocks_for(steps, std::min<int64_t>(wanted, most)));
  const int64_t splits = std::max<int64_t>(1, blocks_for(steps, split_steps));
  return {row_blocks, rank_tiles, splits, split_steps * kXatColumns};
}

// Block (x, y, z): ranks, tokens, part of the columns; blocks that read the same of X are
// neighbours. to: [parts, rows, rank].
template <typename T, bool kWide>
__global__ void __launch_bounds__(kXatWarps* kWarpSize, 3)
    thin_xat(ThinArgs thin, ConstRows x, MaskArgs mask, float factor, int64_t split_cols,
             float* to) {
  const unsigned warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int64_t first_row = (static_cast<int64_t>(blockIdx.y) * kXatWarps + warp) * kXatTokens;
  if (first_row >= thin.rows) return;
  const int64_t first_rank = static_cast<int64_t>(blockIdx.x) * kXatRanks;
  const int64_t begin = blockIdx.z * split_cols;
  const int64_t end = begin + split_cols < thin.cols ? begin + split_cols : thin.cols;
  const int64_t ranks = thin.rank - first_rank;
  const float* a = thin.a + first_rank * thin.a_stride;
  const T* x_rows[kXatTokens];
  const MaskKey key = mask_key(mask);
  MaskRow places[kXatTokens];
#pragma unroll
  for (int i = 0; i < kXatTokens; ++i) {
    const int64_t row = first_row + i < thin.rows ? first_row + i : thin.rows - 1;
    x_rows[i] = row_of<T>(x, row);
    places[i] = mask_row(mask, row);
  }
  float sum[kXatTokens][kXatRanks] = {};
#pragma unroll 1
  for (int64_t col = begin + lane * kMaskGroup; col < end; col += kXatColumns) {
    float x_cols[kXatTokens][kMaskGroup];
#pragma unroll
    for (int i = 0; i < kXatTokens; ++i) {
      load_group<kWide>(x_rows[i], col, thin.cols, x_cols[i]);
      apply_mask(key, places[i], col, x_cols[i]);
    }
#pragma unroll
    for (int k = 0; k < kXatRanks; ++k) {
      float a_cols[kMaskGroup];
      load_group<kWide>(a + (k < ranks ? k : 0) * thin.a_stride, col, thin.cols, a_cols);
#pragma unroll
      for (int i = 0; i < kXatTokens; ++i) {
#pragma unroll
        for (int j = 0; j < kMaskGroup; ++j) sum[i][k] = fmaf(x_cols[i][j], a_cols[j], sum[i][k]);
      }
    }
  }
  to += blockIdx.z * thin.rows * thin.rank;
#pragma unroll
  for (int i = 0; i < kXatTokens; ++i) {
#pragma unroll
    for (int k = 0; k < kXatRanks; ++k) {
      const float total = warp_sum(sum[i][k]);
      if (lane == 0 && first_row + i < thin.rows && k < ranks) {
        to[(first_row + i) * thin.rank + first_rank + k] = total * factor;
      }
    }
  }
}

// --- Y += factor * mask(U A) ---------------------------------------------------------------------

constexpr int kUaTokens = 8;  // at once
constexpr int kUaRows = 32;   // of a block, so that A comes from the nearest cache
constexpr int kUaRanks = 64;  // in shared memory at once
constexpr int kUaThreads = 128;

template <bool kWide>
__device__ __forceinline__ void add_ua(const ThinArgs& thin, int64_t first_rank, int64_t num_ranks,
                                       int64_t col, const float (&u)[kUaTokens][kUaRanks],
                                       float (&sum)[kUaTokens][kMaskGroup]) {
  for (int64_t k = 0; k < num_ranks; ++k) {
    float a_cols[kMaskGroup];
    load_group<kWide>(thin.a + (first_rank + k) * thin.a_stride, col, thin.cols, a_cols);
#pragma unroll
    for (int i = 0; i < kUaTokens; ++i) {
#pragma unroll
      for (int j = 0; j < kMaskGroup; ++j) sum[i][j] = fmaf(u[i][k], a_cols[j], sum[i][j]);
    }
  }
}

// Block (x, y): tokens, columns.
template <typename T, bool kWide>
__global__ void __launch_bounds__(kUaThreads)
    thin_ua(ThinArgs thin, Rows y, MaskArgs mask, float factor) {
  VAX_SHARED(float, u, [kUaTokens][kUaRanks]);
  const MaskKey key = mask_key(mask);
  const int64_t col = (static_cast<int64_t>(blockIdx.y) * kUaThreads + threadIdx.x) * kMaskGroup;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kUaRows;
  const int64_t end = begin + kUaRows < thin.rows ? begin + kUaRows : thin.rows;
  for (int64_t row = begin; row < end; row += kUaTokens) {
    float sum[kUaTokens][kMaskGroup] = {};
    for (int64_t first_rank = 0; first_rank < thin.rank; first_rank += kUaRanks) {
      const int64_t left = thin.rank - first_rank;
      const int64_t num_ranks = left < kUaRanks ? left : kUaRanks;
      __syncthreads();
      for (unsigned at = threadIdx.x; at < kUaTokens * kUaRanks; at += kUaThreads) {
        const unsigned i = at / kUaRanks, k = at % kUaRanks;
        const bool exists = row + i < end && k < num_ranks;
        u[i][k] = exists ? thin.u[(row + i) * thin.u_stride + first_rank + k] * factor : 0.0f;
      }
      __syncthreads();
      if (col < thin.cols) add_ua<kWide>(thin, first_rank, num_ranks, col, u, sum);
    }
    if (col >= thin.cols) continue;
#pragma unroll
    for (int i = 0; i < kUaTokens; ++i) {
      if (row + i >= end) break;
      T* y_row = row_of<T>(y, row + i);
      float y_cols[kMaskGroup];
      load_group<kWide>(y_row, col, thin.cols, y_cols);
      apply_mask(key, mask_row(mask, row + i), col, sum[i]);
#pragma unroll
      for (int j = 0; j < kMaskGroup; ++j) y_cols[j] += sum[i][j];
      store_group<kWide>(y_row, col, thin.cols, y_cols);
    }
  }
}

// --- factor * U^T mask(X) ------------------------------------------------------------------------

constexpr int kUtxRanks = 8;
constexpr int kUtxLanes = 64;  // threads side by side along the columns
constexpr int kUtxTeams = 4;   // that share a block's tokens
constexpr int kUtxColumns = kUtxLanes * kMaskGroup;
constexpr int kUtxThreads = kUtxLanes * kUtxTeams;

struct UtxPlan {
  int64_t rank_tiles, col_blocks, splits, split_rows;
};

UtxPlan utx_plan(const ThinArgs& thin) {
  constexpr int64_t kFewestRows = 32;  // repay a partial sum
  constexpr int64_t kMostSplits = 64;
  const int64_t rank_tiles = blocks_for(thin.rank, kUtxRanks);
  const int64_t col_blocks = blocks_for(thin.cols, kUtxColumns);
  const int64_t wanted = blocks_for(kManyBlocks, std::max<int64_t>(1, rank_tiles * col_blocks));
  const int64_t most = std::min(kMostSplits, blocks_for(thin.rows, kFewestRows));
  const int64_t split_rows =
      std::max<int64_t>(1, blocks_for(thin.rows, std::max<int64_t>(1, std::min(wanted, most))));
  return {rank_tiles, col_blocks, blocks_for(thin.rows, split_rows), split_rows};
}

// Block (x, y, z): ranks, columns, part of the tokens; blocks that read the same tokens are
// neighbours. to: [parts, rank, cols].
template <typename T, bool kWide>
__global__ void __launch_bounds__(kUtxThreads)
    thin_utx(ThinArgs thin, ConstRows x, MaskArgs mask, float factor, int64_t split_rows,
             float* to) {
  // Column c is at [c % kMaskGroup][c / kMaskGroup]; the 4 keep both orders, that of writing and
  // that of reading, free of conflicts between banks.
  VAX_SHARED(float, shared, [kUtxTeams][kMaskGroup][kUtxLanes + 4]);
  const MaskKey key = mask_key(mask);
  const unsigned lane = threadIdx.x % kUtxLanes, team = threadIdx.x / kUtxLanes;
  const int64_t first_rank = static_cast<int64_t>(blockIdx.x) * kUtxRanks;
  const int64_t first_col = static_cast<int64_t>(blockIdx.y) * kUtxColumns;
  const int64_t col = first_col + lane * kMaskGroup;
  const int64_t begin = blockIdx.z * split_rows;
  const int64_t end = begin + split_rows < thin.rows ? begin + split_rows : thin.rows;
  float sum[kUtxRanks][kMaskGroup] = {};
  for (int64_t row = begin + team; row < end && col < thin.cols; row += kUtxTeams) {
    float x_cols[kMaskGroup];
    load_group<kWide>(row_of<T>(x, row), col, thin.cols, x_cols);
    apply_mask(key, mask_row(mask, row), col, x_cols);
    const float* u_row = thin.u + row * thin.u_stride + first_rank;
#pragma unroll
    for (int k = 0; k < kUtxRanks; ++k) {
      const float u = first_rank + k < thin.rank ? u_row[k] * factor : 0.0f;
#pragma unroll
      for (int j = 0; j < kMaskGroup; ++j) sum[k][j] = fmaf(u, x_cols[j], sum[k][j]);
    }
  }
  to += blockIdx.z * thin.rank * thin.cols;
#pragma unroll
  for (int k = 0; k < kUtxRanks; ++k) {
    if (first_rank + k >= thin.rank) break;  // alike in all threads
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kMaskGroup; ++j) shared[team][j][lane] = sum[k][j];
    __syncthreads();
    for (unsigned c = threadIdx.x; c < kUtxColumns; c += kUtxThreads) {
      const unsigned j = c % kMaskGroup, owner = c / kMaskGroup;
      float total = shared[0][j][owner];
#pragma unroll
      for (int i = 1; i < kUtxTeams; ++i) total += shared[i][j][owner];
      if (first_col + c < thin.cols) to[(first_rank + k) * thin.cols + first_col + c] = total;
    }
  }
}

// `count` parts of a sum, of `elements` floats each, one after the other.
struct PartsArgs {
  const float* parts;
  int64_t count, elements;
  float* sum;
  bool accumulate;          // else sum is written
  int64_t turned_rows = 0;  // > 0: parts are [turned_rows, cols], sum is [cols, turned_rows]
};
// sum[i] (+)= the parts' elements i in order; with turned_rows > 0 element i of the sum [cols,
// turned_rows] is that of a part [turned_rows, cols].
__global__ void join_parts(PartsArgs args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= args.elements) return;
  int64_t from = i;
  if (args.turned_rows > 0) {
    from = i % args.turned_rows * (args.elements / args.turned_rows) + i / args.turned_rows;
  }
  float total = args.accumulate ? args.sum[i] : 0.0f;
  for (int64_t part = 0; part < args.count; ++part) {
    total += args.parts[part * args.elements + from];
  }
  args.sum[i] = total;
}

bool wide(const ThinArgs& thin, ConstRows rows) { return vectors_fit(rows, thin.cols, kMaskGroup); }
bool wide_a(const ThinArgs& thin) {
  return vectors_fit({thin.a, Elem::kFloat, thin.a_stride}, thin.cols, kMaskGroup);
}

unsigned index(int64_t value) { return grid_of(value).x; }

void launch_join_parts(const PartsArgs& args) {
  constexpr int64_t kThreads = 256;
  launch(join_parts, grid_of(blocks_for(args.elements, kThreads)), dim3(kThreads), args);
}

int64_t xat_scratch(const ThinArgs& thin) {
  const int64_t splits = xat_plan(thin).splits;
  return splits > 1 ? splits * thin.rows * thin.rank : 0;
}

void launch_thin_xat(const LoraArgs& product, ConstRows x) {
  const ThinArgs& thin = product.thin;
  const XatPlan plan = xat_plan(thin);
  const dim3 grid(index(plan.rank_tiles), index(plan.row_blocks), index(plan.splits));
  const bool is_wide = wide(thin, x) && wide_a(thin);
  float* to = plan.splits > 1 ? product.scratch : thin.u;
  with_elem(x.elem, [&](auto element) {
    using T = decltype(element);
    launch(is_wide ? thin_xat<T, true> : thin_xat<T, false>, grid, dim3(kXatWarps * kWarpSize),
           thin, x, product.mask, product.factor, plan.split_cols, to);
  });
  if (plan.splits == 1) return;
  launch_join_parts({.parts = to,
                     .count = plan.splits,
                     .elements = thin.rows * thin.rank,
                     .sum = thin.u,
                     .accumulate = false});
}

void launch_thin_ua(const LoraArgs& product, Rows y) {
  const ThinArgs& thin = product.thin;
  const dim3 grid(index(blocks_for(thin.rows, kUaRows)),
                  index(blocks_for(thin.cols, kUaThreads * kMaskGroup)));
  const bool is_wide = wide(thin, y) && wide_a(thin);
  with_elem(y.elem, [&](auto element) {
    using T = decltype(element);
    launch(is_wide ? thin_ua<T, true> : thin_ua<T, false>, grid, dim3(kUaThreads), thin, y,
           product.mask, product.factor);
  });
}

int64_t utx_scratch(const ThinArgs& thin) { return utx_plan(thin).splits * thin.rank * thin.cols; }

void launch_thin_utx(const LoraArgs& product, ConstRows x, const LoraSum& grad) {
  const ThinArgs& thin = product.thin;
  const UtxPlan plan = utx_plan(thin);
  const dim3 grid(index(plan.rank_tiles), index(plan.col_blocks), index(plan.splits));
  with_elem(x.elem, [&](auto element) {
    using T = decltype(element);
    launch(wide(thin, x) ? thin_utx<T, true> : thin_utx<T, false>, grid, dim3(kUtxThreads), thin, x,
           product.mask, product.factor, plan.split_rows, product.scratch);
  });
  launch_join_parts({.parts = product.scratch,
                     .count = plan.splits,
                     .elements = thin.rank * thin.cols,
                     .sum = grad.sum,
                     .accumulate = grad.accumulate,
                     .turned_rows = grad.turned ? thin.rank : 0});
}

}  // namespace

const LoraKernels lora_kernels = {.xat = launch_thin_xat,
                                  .xat_scratch = xat_scratch,
                                  .ua = launch_thin_ua,
                                  .utx = launch_thin_utx,
                                  .utx_scratch = utx_scratch};

}  // namespace vax::ops::device
