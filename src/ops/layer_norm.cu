// Layer norm: one block per row, which is kept in registers (up to 16 elements a thread; what is
// more is read again). The gradients of w and b are summed in two stages: a block adds the rows of
// its share, whose number depends on the number of rows only, then sums.cu. Multiply-adds are
// written out, so that all variants of a kernel give the same bits.
#include "ops/device/launch.h"
#include "ops/layer_norm.h"

namespace vax::ops::device {
namespace {

constexpr int kN = 4;  // elements of a vector: 16 bytes of x
constexpr unsigned kForwardThreads = 1024;
constexpr unsigned kBackwardThreads = 512;  // more have too few registers
constexpr int64_t kPartials = 264;          // two blocks for each of an H200's 132 processors

// Calls use(col, vector of x) for all vectors of the thread: those that are kept, then the rest.
template <bool kAligned, typename Use>
__device__ __forceinline__ void for_row(const KeptRow<kN>& kept, const float* x, int64_t cols,
                                        const Use& use) {
#pragma unroll
  for (int k = 0; k < kKept; ++k) use(col_of<kN>(k), kept.at[k]);
  for_rest<kN>(cols, [&](int64_t col) {
    float v[kN];
    load_vector<kAligned>(x, col, cols, v);
    use(col, v);
  });
}

template <typename TW, typename TY, bool kAligned>
__device__ __forceinline__ void normalise(const LayerNormArgs& args, int64_t row, int64_t col,
                                          const float (&x)[kN], float mean, float rstd) {
  float w[kN], y[kN];
  load_vector<kAligned>(row_of<TW>(args.w, 0), col, args.cols, w);
  load_vector<kAligned>(row_of<TW>(args.b, 0), col, args.cols, y);
#pragma unroll
  for (int i = 0; i < kN; ++i) y[i] = fmaf((x[i] - mean) * rstd, w[i], y[i]);
  store_vector<kAligned>(row_of<TY>(args.y, row), col, args.cols, y);
}

template <typename TW, typename TY, bool kAligned>
__global__ void __launch_bounds__(kForwardThreads) layer_norm_forward(LayerNormArgs args) {
  const int64_t row = blockIdx.x, cols = args.cols;
  const float* x = row_of<float>(args.x, row);
  KeptRow<kN> kept;
  kept.load_from<kAligned>(x, cols);
  float sum = 0, squares = 0;
  for_row<kAligned>(kept, x, cols, [&](int64_t, const float(&v)[kN]) {
#pragma unroll
    for (int i = 0; i < kN; ++i) sum += v[i];
  });
  const float mean = block_sum(sum) / static_cast<float>(cols);
  for_row<kAligned>(kept, x, cols, [&](int64_t col, const float(&v)[kN]) {
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const float difference = col + i < cols ? v[i] - mean : 0.0f;
      squares = fmaf(difference, difference, squares);
    }
  });
  squares = block_sum(squares);
  const float rstd = 1.0f / sqrtf(squares / static_cast<float>(cols) + args.eps);
  if (threadIdx.x == 0) {
    args.mean[row] = mean;
    args.rstd[row] = rstd;
  }
  for_row<kAligned>(kept, x, cols, [&](int64_t col, const float(&v)[kN]) {
    normalise<TW, TY, kAligned>(args, row, col, v, mean, rstd);
  });
}

template <typename TW, typename TY, bool kAligned>
__global__ void layer_norm_apply(LayerNormArgs args, unsigned blocks_per_row) {
  const auto [row, col] = row_place(blocks_per_row, kN);
  if (col >= args.cols) return;
  float v[kN];
  load_vector<kAligned>(row_of<float>(args.x, row), col, args.cols, v);
  normalise<TW, TY, kAligned>(args, row, col, v, args.mean[row], args.rstd[row]);
}

// Vectors of one thread of a row's backward; n = (x - mean) * rstd.
template <typename TDY, typename TW, bool kAligned>
struct Terms {
  float dy[kN], n[kN], w[kN];

  __device__ __forceinline__ Terms(const LayerNormBackwardArgs& args, int64_t row, int64_t col) {
    const float mean = args.mean[row], rstd = args.rstd[row];
    load_vector<kAligned>(row_of<TDY>(args.dy, row), col, args.cols, dy);
    load_vector<kAligned>(row_of<TW>(args.w, 0), col, args.cols, w);
    load_vector<kAligned>(row_of<float>(args.x, row), col, args.cols, n);
#pragma unroll
    for (int i = 0; i < kN; ++i) n[i] = (n[i] - mean) * rstd;
  }
};

// Adds a row's dx; a thread's shares of dw and db go to `partial`, [2 * cols], where no other
// thread writes (null: not wanted). The row is read twice, the second time from cache.
template <typename TDY, typename TW, bool kAligned>
__device__ __forceinline__ void add_row(const LayerNormBackwardArgs& args, int64_t row,
                                        float* partial, bool is_first) {
  using RowTerms = Terms<TDY, TW, kAligned>;
  const int64_t cols = args.cols, step = static_cast<int64_t>(blockDim.x) * kN;
  float sums[2] = {};  // of g = dy * w and of g * n
  for (int64_t col = col_of<kN>(0); col < cols; col += step) {
    const RowTerms at(args, row, col);
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      sums[0] = fmaf(at.dy[i], at.w[i], sums[0]);
      sums[1] = fmaf(at.dy[i] * at.w[i], at.n[i], sums[1]);
    }
  }
  block_sums(sums);
  const float mean_g = sums[0] / static_cast<float>(cols);
  const float mean_gn = sums[1] / static_cast<float>(cols), rstd = args.rstd[row];
  float* dx = row_of<float>(args.dx, row);
  for (int64_t col = col_of<kN>(0); col < cols; col += step) {
    const RowTerms at(args, row, col);
    float dx_i[kN], dw[kN] = {}, db[kN] = {};
    load_vector<kAligned>(dx, col, cols, dx_i);
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const float difference = fmaf(at.dy[i], at.w[i], -mean_g);
      dx_i[i] = fmaf(fmaf(at.n[i], -mean_gn, difference), rstd, dx_i[i]);
    }
    store_vector<kAligned>(dx, col, cols, dx_i);
    if (partial == nullptr) continue;
    if (!is_first) {
      load_vector<kAligned>(partial, col, cols, dw);
      load_vector<kAligned>(partial + cols, col, cols, db);
    }
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      dw[i] = fmaf(at.dy[i], at.n[i], dw[i]);
      db[i] += at.dy[i];
    }
    store_vector<kAligned>(partial, col, cols, dw);
    store_vector<kAligned>(partial + cols, col, cols, db);
  }
}

template <typename TDY, typename TW, bool kAligned>
__global__ void __launch_bounds__(kBackwardThreads)
    layer_norm_backward(LayerNormBackwardArgs args, int64_t rows, float* partials) {
  float* partial = partials == nullptr ? nullptr : partials + blockIdx.x * 2 * args.cols;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    add_row<TDY, TW, kAligned>(args, row, partial, row == blockIdx.x);
  }
}

bool aligned_rows(const LayerNormArgs& args) {
  return rows_aligned(args.x, kN) && rows_aligned(args.w, kN) && rows_aligned(args.b, kN) &&
         rows_aligned(args.y, kN);
}

void launch_layer_norm_forward(const LayerNormArgs& args, int64_t, int64_t rows) {
  with_types(args.w.elem, args.y.elem, aligned_rows(args), [&](auto w, auto y, auto aligned) {
    launch(layer_norm_forward<decltype(w), decltype(y), decltype(aligned)::value>, grid_of(rows),
           threads_of_row(args.cols, kN, kForwardThreads), args);
  });
}

void launch_layer_norm_apply(const LayerNormArgs& args, int64_t, int64_t rows) {
  const RowGrid at = row_grid(rows, args.cols, kN);
  with_types(args.w.elem, args.y.elem, aligned_rows(args), [&](auto w, auto y, auto aligned) {
    launch(layer_norm_apply<decltype(w), decltype(y), decltype(aligned)::value>, at.grid, at.block,
           args, at.blocks_per_row);
  });
}

int64_t num_partials(int64_t rows) { return rows < kPartials ? rows : kPartials; }

// Rows of partials and their halves begin where the length has them, so they count as well.
void launch_layer_norm_backward(const LayerNormBackwardArgs& args, int64_t, int64_t rows,
                                float* partials) {
  const bool is_aligned = rows_aligned(args.dy, kN) && rows_aligned(args.x, kN) &&
                          rows_aligned(args.w, kN) && rows_aligned(args.dx, kN) &&
                          rows_aligned({partials, Elem::kFloat, args.cols}, kN);
  const int64_t blocks = partials == nullptr ? rows : num_partials(rows);
  with_types(args.dy.elem, args.w.elem, is_aligned, [&](auto dy, auto w, auto aligned) {
    launch(layer_norm_backward<decltype(dy), decltype(w), decltype(aligned)::value>,
           grid_of(blocks), threads_of_row(args.cols, kN, kBackwardThreads), args, rows, partials);
  });
}

}  // namespace

const LayerNormKernels layer_norm_kernels = {.forward = launch_layer_norm_forward,
                                             .apply = launch_layer_norm_apply,
                                             .backward = launch_layer_norm_backward,
                                             .num_partials = num_partials};

}  // namespace vax::ops::device
