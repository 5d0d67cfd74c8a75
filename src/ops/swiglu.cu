// SwiGLU, forward and backward: one thread makes the elements of one 16-byte access. Read before
// written, so that the gradient may take the place of its input.
#include "ops/device/launch.h"
#include "ops/swiglu.h"

namespace vax::ops::device {
namespace {

template <typename T>
constexpr int kWidth = 16 / sizeof(T);

template <typename T, bool kAligned>
__global__ void swiglu_forward(SwigluArgs args, unsigned blocks_per_row) {
  constexpr int kN = kWidth<T>;
  const auto [row, col] = row_place(blocks_per_row, kN);
  if (col >= args.cols) return;
  const T* gate_row = row_of<T>(args.gate_up, row);
  float gate[kN], up[kN], y[kN];
  load_vector<kAligned>(gate_row, col, args.cols, gate);
  load_vector<kAligned>(gate_row + args.cols, col, args.cols, up);
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    y[i] = gate[i] * inverse_for<T>(1.0f + exp_for<T>(-gate[i])) * up[i];
  }
  store_vector<kAligned>(row_of<T>(args.out, row), col, args.cols, y);
}

template <typename T, bool kAligned>
__global__ void swiglu_backward(SwigluArgs args, unsigned blocks_per_row) {
  constexpr int kN = kWidth<T>;
  const auto [row, col] = row_place(blocks_per_row, kN);
  if (col >= args.cols) return;
  const T* gate_row = row_of<T>(args.gate_up, row);
  float gate[kN], up[kN], dy[kN];
  load_vector<kAligned>(gate_row, col, args.cols, gate);
  load_vector<kAligned>(gate_row + args.cols, col, args.cols, up);
  load_vector<kAligned>(row_of<T>(args.dy, row), col, args.cols, dy);
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    const float g = gate[i], s = inverse_for<T>(1.0f + exp_for<T>(-g));
    gate[i] = dy[i] * up[i] * s * fmaf(g, 1.0f - s, 1.0f);
    up[i] = dy[i] * (g * s);
  }
  T* out = row_of<T>(args.out, row);
  store_vector<kAligned>(out, col, args.cols, gate);
  store_vector<kAligned>(out + args.cols, col, args.cols, up);
}

// Right halves begin at `cols`. The dy of a forward is empty, which counts as aligned.
template <typename T>
bool aligned(const SwigluArgs& args) {
  return args.cols % kWidth<T> == 0 && rows_aligned(args.gate_up, kWidth<T>) &&
         rows_aligned(args.out, kWidth<T>) && rows_aligned(args.dy, kWidth<T>);
}

template <typename T>
void launch_one(void (*with_vectors)(SwigluArgs, unsigned), void (*without)(SwigluArgs, unsigned),
                const SwigluArgs& args, int64_t rows) {
  const RowGrid at = row_grid(rows, args.cols, kWidth<T>);
  launch(aligned<T>(args) ? with_vectors : without, at.grid, at.block, args, at.blocks_per_row);
}

void launch_swiglu_forward(const SwigluArgs& args, int64_t, int64_t rows) {
  with_elem(args.out.elem, [&](auto element) {
    using T = decltype(element);
    launch_one<T>(swiglu_forward<T, true>, swiglu_forward<T, false>, args, rows);
  });
}

void launch_swiglu_backward(const SwigluArgs& args, int64_t, int64_t rows) {
  with_elem(args.out.elem, [&](auto element) {
    using T = decltype(element);
    launch_one<T>(swiglu_backward<T, true>, swiglu_backward<T, false>, args, rows);
  });
}

}  // namespace

const SwigluKernels swiglu_kernels = {.forward = launch_swiglu_forward,
                                      .backward = launch_swiglu_backward};

}  // namespace vax::ops::device
