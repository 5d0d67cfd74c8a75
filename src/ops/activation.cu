// Activations: one thread makes the elements of one 16-byte access. Read before written, so that
// the gradient may take the place of either input.
#include "ops/activation.h"
#include "ops/device/launch.h"

namespace vax::ops::device {
namespace {

// What is no number stays so.
struct Relu {
  static __device__ __forceinline__ float forward(float x) { return x < 0.0f ? 0.0f : x; }
  static __device__ __forceinline__ float backward(float x, float dy) {
    return x <= 0.0f ? 0.0f : dy;
  }
};

struct Gelu {
  // The probability of being below x; erfc keeps small tails exact.
  static __device__ __forceinline__ float below(float x) {
    return 0.5f * erfcf(x * -0.7071067812f);
  }
  static __device__ __forceinline__ float forward(float x) { return x * below(x); }
  static __device__ __forceinline__ float backward(float x, float dy) {
    const float density = 0.3989422804f * expf(x * x * -0.5f);
    return dy * fmaf(x, density, below(x));
  }
};

template <typename T>
constexpr int kWidth = 16 / sizeof(T);

template <typename F, bool kBackward, typename T, bool kAligned>
__global__ void activate(ActivationArgs args, unsigned blocks_per_row) {
  constexpr int kN = kWidth<T>;
  const auto [row, col] = row_place(blocks_per_row, kN);
  if (col >= args.cols) return;
  float x[kN], dy[kN];
  load_vector<kAligned>(row_of<T>(args.x, row), col, args.cols, x);
  if constexpr (kBackward) load_vector<kAligned>(row_of<T>(args.dy, row), col, args.cols, dy);
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    if constexpr (kBackward) {
      x[i] = F::backward(x[i], dy[i]);
    } else {
      x[i] = F::forward(x[i]);
    }
  }
  store_vector<kAligned>(row_of<T>(args.out, row), col, args.cols, x);
}

// The dy of a forward is empty, which counts as aligned.
template <typename F, bool kBackward>
void launch_activate(const ActivationArgs& args, int64_t, int64_t rows) {
  const int width = static_cast<int>(16 / elem_bytes(args.out.elem));
  const bool is_aligned =
      rows_aligned(args.x, width) && rows_aligned(args.out, width) && rows_aligned(args.dy, width);
  with_layout(args.out.elem, is_aligned, [&](auto element, auto aligned) {
    using T = decltype(element);
    const RowGrid at = row_grid(rows, args.cols, kWidth<T>);
    launch(activate<F, kBackward, T, decltype(aligned)::value>, at.grid, at.block, args,
           at.blocks_per_row);
  });
}

}  // namespace

const ActivationKernels activation_kernels = {.relu = launch_activate<Relu, false>,
                                              .relu_backward = launch_activate<Relu, true>,
                                              .gelu = launch_activate<Gelu, false>,
                                              .gelu_backward = launch_activate<Gelu, true>};

}  // namespace vax::ops::device
