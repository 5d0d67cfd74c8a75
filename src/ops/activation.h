// The activation of a plain MLP, element by element:
//   relu  y = max(x, 0)                      dx = dy where x > 0, else 0
//   gelu  y = x P(x), P(x) = (1 + erf(x / sqrt(2))) / 2 (arXiv 1606.08415, exact)
//         dx = dy (P(x) + x p(x)), p(x) = exp(-x^2 / 2) / sqrt(2 pi)
// Saved by the caller: x.
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

enum class Activation : uint8_t { kRelu, kGelu };

// SHAPES x, y [T, F] (y is written); fp32 or bf16, one type; arithmetic in fp32.
void activation_forward(Activation kind, const at::Tensor& x_TF, at::Tensor& y_TF);
// dx [T, F] is written; it may be dy or x itself.
void activation_backward(Activation kind, const at::Tensor& dy_TF, const at::Tensor& x_TF,
                         at::Tensor& dx_TF);

// Kernels: for activation.cpp.

struct ActivationArgs {
  int64_t cols;
  ConstRows dy;  // backward only
  ConstRows x;
  Rows out;  // y, or dx; all of one type
};
struct ActivationKernels {
  RowKernel<ActivationArgs> relu, relu_backward, gelu, gelu_backward;
};
VAX_KERNELS(ActivationKernels, activation_kernels);

}  // namespace vax::ops
