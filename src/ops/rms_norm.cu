// RMSNorm: one block per row, which is read once and kept in registers (up to 16 elements a thread;
// what is more is read again). The gradient of w is summed in two stages: a block adds the rows of
// its share, whose number depends on the number of rows only, then sums.cu.
// Multiply-adds are written out, so that all variants of a kernel give the same bits.
#include "ops/device/launch.h"
#include "ops/rms_norm.h"

namespace vax::ops::device {
namespace {

constexpr int kN = 4;  // elements of a vector: 16 bytes of x
constexpr unsigned kForwardThreads = 1024;
constexpr unsigned kBackwardThreads = 512;  // more have too few registers
constexpr int64_t kPartials = 264;          // two blocks for each of an H200's 132 processors

template <typename TW, typename TY, bool kAligned>
__device__ __forceinline__ void normalise(const RmsNormArgs& args, int64_t row, int64_t col,
                                          const float (&x)[kN], float rstd) {
  float y[kN];
  load_vector<kAligned>(row_of<TW>(args.w, 0), col, args.cols, y);
#pragma unroll
  for (int i = 0; i < kN; ++i) y[i] *= x[i] * rstd;
  store_vector<kAligned>(row_of<TY>(args.y, row), col, args.cols, y);
}

template <typename TW, typename TY, bool kAligned>
__global__ void __launch_bounds__(kForwardThreads) rms_norm_forward(RmsNormArgs args) {
  const int64_t row = blockIdx.x;
  const float* x = row_of<float>(args.x, row);
  KeptRow<kN> kept;
  kept.load_from<kAligned>(x, args.cols);
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
#pragma unroll
    for (int i = 0; i < kN; ++i) squares = fmaf(kept.at[k][i], kept.at[k][i], squares);
  }
  for_rest<kN>(args.cols, [&](int64_t col) {
    float v[kN];
    load_vector<kAligned>(x, col, args.cols, v);
#pragma unroll
    for (int i = 0; i < kN; ++i) squares = fmaf(v[i], v[i], squares);
  });
  squares = block_sum(squares);
  const float rstd = 1.0f / sqrtf(squares / static_cast<float>(args.cols) + args.eps);
  if (threadIdx.x == 0) args.rstd[row] = rstd;
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    normalise<TW, TY, kAligned>(args, row, col_of<kN>(k), kept.at[k], rstd);
  }
  for_rest<kN>(args.cols, [&](int64_t col) {
    float v[kN];
    load_vector<kAligned>(x, col, args.cols, v);
    normalise<TW, TY, kAligned>(args, row, col, v, rstd);
  });
}

template <typename TW, typename TY, bool kAligned>
__global__ void rms_norm_apply(RmsNormArgs args, unsigned blocks_per_row) {
  const auto [row, col] = row_place(blocks_per_row, kN);
  if (col >= args.cols) return;
  float v[kN];
  load_vector<kAligned>(row_of<float>(args.x, row), col, args.cols, v);
  normalise<TW, TY, kAligned>(args, row, col, v, args.rstd[row]);
}

// What the gradient of one row needs besides its vectors of dy, x, w.
struct RowFactors {
  float rstd, x_factor;
};
// dx += its gradient; terms: the row's share of dw.
__device__ __forceinline__ void add_gradient(RowFactors row, const float (&dy)[kN],
                                             const float (&x)[kN], const float (&w)[kN],
                                             float (&dx)[kN], float (&terms)[kN]) {
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    const float scaled = dy[i] * row.rstd;
    dx[i] += fmaf(scaled, w[i], x[i] * -row.x_factor);
    terms[i] = scaled * x[i];
  }
}

// Rows of one block. `partial`: its row of partial sums for dw, of which a thread keeps the sums of
// its kept vectors in registers and has the rest in memory, where no other thread writes.
template <typename TDY, typename TW, bool kAligned, bool kWithWeight>
struct BackwardBlock {
  const RmsNormBackwardArgs& args;
  float* partial;
  KeptRow<kN> dw{};

  __device__ __forceinline__ void add_row(int64_t row, bool is_first) {
    const TDY* dy = row_of<TDY>(args.dy, row);
    const TW* w = row_of<TW>(args.w, 0);
    const float* x = row_of<float>(args.x, row);
    float* dx = row_of<float>(args.dx, row);
    const int64_t cols = args.cols;
    KeptRow<kN> kept_dy, kept_x, kept_dx;
    kept_dy.load_from<kAligned>(dy, cols);
    kept_x.load_from<kAligned>(x, cols);
    kept_dx.load_from<kAligned>(dx, cols);
    float dot = 0, w_i[kN], terms[kN];
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      load_vector<kAligned>(w, col_of<kN>(k), cols, w_i);
      add_products(kept_dy.at[k], w_i, kept_x.at[k], dot);
    }
    for_rest<kN>(cols, [&](int64_t col) {
      float dy_i[kN], x_i[kN];
      load_vector<kAligned>(dy, col, cols, dy_i);
      load_vector<kAligned>(x, col, cols, x_i);
      load_vector<kAligned>(w, col, cols, w_i);
      add_products(dy_i, w_i, x_i, dot);
    });
    dot = block_sum(dot);
    const float rstd = args.rstd[row];
    const RowFactors factors{rstd, rstd * rstd * rstd * dot / static_cast<float>(cols)};
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      load_vector<kAligned>(w, col_of<kN>(k), cols, w_i);
      add_gradient(factors, kept_dy.at[k], kept_x.at[k], w_i, kept_dx.at[k], terms);
      store_vector<kAligned>(dx, col_of<kN>(k), cols, kept_dx.at[k]);
      if (kWithWeight) add_terms(terms, dw.at[k]);
    }
    for_rest<kN>(cols, [&](int64_t col) {
      float dy_i[kN], x_i[kN], dx_i[kN];
      load_vector<kAligned>(dy, col, cols, dy_i);
      load_vector<kAligned>(x, col, cols, x_i);
      load_vector<kAligned>(w, col, cols, w_i);
      load_vector<kAligned>(dx, col, cols, dx_i);
      add_gradient(factors, dy_i, x_i, w_i, dx_i, terms);
      store_vector<kAligned>(dx, col, cols, dx_i);
      if (kWithWeight) add_to_partial(terms, col, is_first);
    });
  }

  __device__ __forceinline__ void write_kept() {
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      store_vector<kAligned>(partial, col_of<kN>(k), args.cols, dw.at[k]);
    }
  }

 private:
  static __device__ __forceinline__ void add_products(const float (&dy)[kN], const float (&w)[kN],
                                                      const float (&x)[kN], float& dot) {
#pragma unroll
    for (int i = 0; i < kN; ++i) dot = fmaf(dy[i] * w[i], x[i], dot);
  }
  static __device__ __forceinline__ void add_terms(const float (&terms)[kN], float (&sum)[kN]) {
#pragma unroll
    for (int i = 0; i < kN; ++i) sum[i] += terms[i];
  }
  __device__ __forceinline__ void add_to_partial(const float (&terms)[kN], int64_t col,
                                                 bool is_first) {
    float sum[kN] = {};
    if (!is_first) load_vector<kAligned>(partial, col, args.cols, sum);
    add_terms(terms, sum);
    store_vector<kAligned>(partial, col, args.cols, sum);
  }
};

template <typename TDY, typename TW, bool kAligned>
__global__ void __launch_bounds__(kBackwardThreads) rms_norm_backward(RmsNormBackwardArgs args) {
  BackwardBlock<TDY, TW, kAligned, false>{args, nullptr}.add_row(blockIdx.x, true);
}

template <typename TDY, typename TW, bool kAligned>
__global__ void __launch_bounds__(kBackwardThreads)
    rms_norm_backward_with_weight(RmsNormBackwardArgs args, int64_t rows, float* partials) {
  BackwardBlock<TDY, TW, kAligned, true> block{args, partials + blockIdx.x * args.cols};
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    block.add_row(row, row == blockIdx.x);
  }
  block.write_kept();
}

bool aligned_rows(const RmsNormArgs& args) {
  return rows_aligned(args.x, kN) && rows_aligned(args.w, kN) && rows_aligned(args.y, kN);
}

void launch_rms_norm_forward(const RmsNormArgs& args, int64_t, int64_t rows) {
  with_types(args.w.elem, args.y.elem, aligned_rows(args), [&](auto w, auto y, auto aligned) {
    launch(rms_norm_forward<decltype(w), decltype(y), decltype(aligned)::value>, grid_of(rows),
           threads_of_row(args.cols, kN, kForwardThreads), args);
  });
}

void launch_rms_norm_apply(const RmsNormArgs& args, int64_t, int64_t rows) {
  const RowGrid at = row_grid(rows, args.cols, kN);
  with_types(args.w.elem, args.y.elem, aligned_rows(args), [&](auto w, auto y, auto aligned) {
    launch(rms_norm_apply<decltype(w), decltype(y), decltype(aligned)::value>, at.grid, at.block,
           args, at.blocks_per_row);
  });
}

int64_t num_partials(int64_t rows) { return rows < kPartials ? rows : kPartials; }

// Rows of partials begin where their length has them, so they count as well.
void launch_rms_norm_backward(const RmsNormBackwardArgs& args, int64_t, int64_t rows,
                              float* partials) {
  const bool is_aligned = rows_aligned(args.dy, kN) && rows_aligned(args.x, kN) &&
                          rows_aligned(args.w, kN) && rows_aligned(args.dx, kN) &&
                          rows_aligned({partials, Elem::kFloat, args.cols}, kN);
  const dim3 threads = threads_of_row(args.cols, kN, kBackwardThreads);
  with_types(args.dy.elem, args.w.elem, is_aligned, [&](auto dy, auto w, auto aligned) {
    using TDY = decltype(dy);
    using TW = decltype(w);
    constexpr bool kAligned = decltype(aligned)::value;
    if (partials == nullptr) {
      launch(rms_norm_backward<TDY, TW, kAligned>, grid_of(rows), threads, args);
    } else {
      launch(rms_norm_backward_with_weight<TDY, TW, kAligned>, grid_of(num_partials(rows)), threads,
             args, rows, partials);
    }
  });
}

}  // namespace

const RmsNormKernels rms_norm_kernels = {.forward = launch_rms_norm_forward,
                                         .apply = launch_rms_norm_apply,
                                         .backward = launch_rms_norm_backward,
                                         .num_partials = num_partials};

}  // namespace vax::ops::device
