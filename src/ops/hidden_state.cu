// The residual stream and sums over it. Elementwise kernels: one 16-byte access of h per thread.
// Sums: one block per row leaves the row's fp32 sum; sums.cu adds those.
#include "ops/device/launch.h"
#include "ops/hidden_state.h"

namespace vax::ops::device {
namespace {

constexpr int kN = 4;  // elements of a vector: 16 bytes of fp32
constexpr unsigned kMostThreads = 1024;

template <typename T, bool kAligned>
__global__ void add_scaled(AddScaledArgs args, unsigned blocks_per_row) {
  const float factor = args.scale == nullptr ? 1.0f : static_cast<float>(*args.scale);
  if (factor == 0) return;
  const auto [row, col] = row_place(blocks_per_row, kN);
  if (col >= args.cols) return;
  float x[kN], added[kN];
  load_vector<kAligned>(row_of<float>(args.x, row), col, args.cols, x);
  load_vector<kAligned>(row_of<T>(args.added, row), col, args.cols, added);
#pragma unroll
  for (int i = 0; i < kN; ++i) x[i] = fmaf(added[i], factor, x[i]);
  store_vector<kAligned>(row_of<float>(args.h, row), col, args.cols, x);
}

template <typename T, bool kAligned>
__global__ void __launch_bounds__(kMostThreads)
    copy_with_squares(int64_t cols, ConstRows grad, Rows kept, float* row_squares) {
  const int64_t row = blockIdx.x;
  const float* from = row_of<float>(grad, row);
  T* to = row_of<T>(kept, row);
  float squares = 0;
  const auto copy = [&](const float(&v)[kN], int64_t col) {
    store_vector<kAligned>(to, col, cols, v);
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const float rounded = to_float(from_float<T>(v[i]));
      squares = fmaf(rounded, rounded, squares);
    }
  };
  KeptRow<kN> first;
  first.load_from<kAligned>(from, cols);
#pragma unroll
  for (int k = 0; k < kKept; ++k) copy(first.at[k], col_of<kN>(k));
  for_rest<kN>(cols, [&](int64_t col) {
    float v[kN];
    load_vector<kAligned>(from, col, cols, v);
    copy(v, col);
  });
  squares = block_sum(squares);
  if (threadIdx.x == 0) row_squares[row] = squares;
}

template <typename TA, typename TB, bool kAligned>
__global__ void __launch_bounds__(kMostThreads)
    cosine_sums(ConstRows a, ConstRows b, int64_t cols, float* row_sums) {
  const int64_t row = blockIdx.x;
  const TA* a_row = row_of<TA>(a, row);
  const TB* b_row = row_of<TB>(b, row);
  float sums[3] = {};
  const auto add = [&](const float(&x)[kN], const float(&y)[kN]) {
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      sums[0] = fmaf(x[i], y[i], sums[0]);
      sums[1] = fmaf(x[i], x[i], sums[1]);
      sums[2] = fmaf(y[i], y[i], sums[2]);
    }
  };
  KeptRow<kN> first_a, first_b;
  first_a.load_from<kAligned>(a_row, cols);
  first_b.load_from<kAligned>(b_row, cols);
#pragma unroll
  for (int k = 0; k < kKept; ++k) add(first_a.at[k], first_b.at[k]);
  for_rest<kN>(cols, [&](int64_t col) {
    float x[kN], y[kN];
    load_vector<kAligned>(a_row, col, cols, x);
    load_vector<kAligned>(b_row, col, cols, y);
    add(x, y);
  });
  block_sums(sums);
  if (threadIdx.x != 0) return;
  for (int i = 0; i < 3; ++i) row_sums[i * static_cast<int64_t>(gridDim.x) + row] = sums[i];
}

// A thread takes four vectors at a time, `step` apart, so that four loads are under way.
constexpr int kAtOnce = 4;
constexpr unsigned kSquareThreads = 256;
constexpr int64_t kSquareBlocks = 132 * 8;

template <bool kAligned>
__global__ void __launch_bounds__(kSquareThreads)
    squares_of(const float* x, int64_t count, double* partials) {
  const int64_t step = static_cast<int64_t>(blockDim.x) * kN;
  double total = 0;
  for (int64_t run = blockIdx.x * step * kAtOnce; run < count; run += gridDim.x * step * kAtOnce) {
    float v[kAtOnce][kN];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      load_vector<kAligned>(x, run + k * step + threadIdx.x * kN, count, v[k]);
    }
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
#pragma unroll
      for (int i = 0; i < kN; ++i) sum = fmaf(v[k][i], v[k][i], sum);
    }
    total += sum;
  }
  total = block_sum(total);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

void launch_add_scaled(const AddScaledArgs& args, int64_t, int64_t rows) {
  const bool is_aligned =
      rows_aligned(args.x, kN) && rows_aligned(args.added, kN) && rows_aligned(args.h, kN);
  const RowGrid at = row_grid(rows, args.cols, kN);
  with_layout(args.added.elem, is_aligned, [&](auto element, auto aligned) {
    launch(add_scaled<decltype(element), decltype(aligned)::value>, at.grid, at.block, args,
           at.blocks_per_row);
  });
}

void launch_copy_with_squares(int64_t cols, ConstRows grad, Rows kept, int64_t rows,
                              float* row_squares) {
  const bool is_aligned = rows_aligned(grad, kN) && rows_aligned(kept, kN);
  with_layout(kept.elem, is_aligned, [&](auto element, auto aligned) {
    launch(copy_with_squares<decltype(element), decltype(aligned)::value>, grid_of(rows),
           threads_of_row(cols, kN, kMostThreads), cols, grad, kept, row_squares);
  });
}

void launch_cosine_sums(ConstRows a, ConstRows b, int64_t rows, int64_t cols, float* row_sums) {
  const bool is_aligned = rows_aligned(a, kN) && rows_aligned(b, kN);
  with_elem(a.elem, [&](auto a_element) {
    with_layout(b.elem, is_aligned, [&](auto b_element, auto aligned) {
      launch(cosine_sums<decltype(a_element), decltype(b_element), decltype(aligned)::value>,
             grid_of(rows), threads_of_row(cols, kN, kMostThreads), a, b, cols, row_sums);
    });
  });
}

int64_t num_square_partials(int64_t count) {
  const int64_t wanted = blocks_for(count, int64_t{kSquareThreads} * kN * kAtOnce);
  return wanted < kSquareBlocks ? wanted : kSquareBlocks;
}

void launch_squares(const float* x, int64_t count, double* partials) {
  const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0;
  launch(aligned ? squares_of<true> : squares_of<false>, grid_of(num_square_partials(count)),
         dim3(kSquareThreads), x, count, partials);
}

}  // namespace

const HiddenStateKernels hidden_state_kernels = {.add_scaled = launch_add_scaled,
                                                 .copy_with_squares = launch_copy_with_squares,
                                                 .cosine_sums = launch_cosine_sums,
                                                 .squares = launch_squares,
                                                 .num_square_partials = num_square_partials};

}  // namespace vax::ops::device
