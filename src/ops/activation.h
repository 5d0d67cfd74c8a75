// The activation of a plain MLP, element by element:
//   relu  y = max(x, 0)                      dx = dy where x > 0, else 0
//   gelu  y = x P(x), P(x) = (1 + erf(x / sqrt(2))) / 2 (arXiv 1606.08415, exact)
//         dx = dy (P(x) + x p(x)), p(x) = exp(-x^2 / 2) / sqrt(2 pi)
// Saved by the caller: x.
// THROWS std::logic_error where a shape, a type or the device of a tensor does not fit.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace vax::ops {

enum class Activation : uint8_t { kRelu, kGelu };

// SHAPES x, y [T, F] (y is written); fp32 or bf16, one type; arithmetic in fp32.
void activation_forward(Activation kind, const at::Tensor& x_TF, at::Tensor& y_TF);
// dx [T, F] is written; it may be dy or x itself.
void activation_backward(Activation kind, const at::Tensor& dy_TF, const at::Tensor& x_TF,
                         at::Tensor& dx_TF);

}  // namespace vax::ops
