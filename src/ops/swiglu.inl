// SwiGLU, one row at a time.
#include "ops/kernels/vec.inl"
#include "ops/swiglu.h"

namespace vax::ops::VAX_KERNEL_TARGET {

void swiglu_forward(const SwigluArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    with_row(args.gate_up, row, [&](const auto* gate) {
      with_row(args.out, row, [&](auto* y) {
        const auto* up = gate + args.cols;
        for_vectors(0, args.cols, [&](int64_t i, auto part) {
          const VecF g = load(gate + i, part);
          store(y + i, g * sigmoid(g) * load(up + i, part), part);
        });
      });
    });
  }
}

template <typename T>
inline void swiglu_backward_row(const T* dy, const T* gate, T* dgate, int64_t cols) {
  for_vectors(0, cols, [&](int64_t i, auto part) {
    const VecF dy_i = load(dy + i, part);
    const VecF g = load(gate + i, part);
    const VecF u = load(gate + cols + i, part);
    const VecF s = sigmoid(g);
    store(dgate + i, dy_i * u * s * multiply_add(g, 1.0f - s, splat(1.0f)), part);
    store(dgate + cols + i, dy_i * (g * s), part);
  });
}

void swiglu_backward(const SwigluArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    if (args.out.elem == Elem::kFloat) {
      swiglu_backward_row(row_of<float>(args.dy, row), row_of<float>(args.gate_up, row),
                          row_of<float>(args.out, row), args.cols);
    } else {
      swiglu_backward_row(row_of<Bf16>(args.dy, row), row_of<Bf16>(args.gate_up, row),
                          row_of<Bf16>(args.out, row), args.cols);
    }
  }
}

const SwigluKernels swiglu_kernels = {.forward = swiglu_forward, .backward = swiglu_backward};

}  // namespace vax::ops::VAX_KERNEL_TARGET
