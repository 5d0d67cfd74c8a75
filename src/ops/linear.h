// Linear layers: y = x W^T + b, with the bias optional.
//   dx = dy W          dW += dy^T x          db += sum over rows of dy
// Nothing is saved but what the caller keeps (x). Precision: x, W, y and dy have one type (fp32 or
// bf16, "compute type"); dW and db are fp32.
// THROWS std::logic_error where a shape, a type or the device of a tensor does not fit (CPU only).
#pragma once

#include <ATen/core/Tensor.h>

namespace vax::ops {

// SHAPES x [T, I], w [O, I], bias [O] or undefined, y [T, O] (written).
void linear_forward(const at::Tensor& x_TI, const at::Tensor& w_OI, const at::Tensor& bias_O,
                    at::Tensor& y_TO);
// dx [T, I] is written, or added to when `accumulate`.
void linear_backward_input(const at::Tensor& dy_TO, const at::Tensor& w_OI, at::Tensor& dx_TI,
                           bool accumulate);
// Adds to dw [O, I] fp32. In bf16 the product is rounded to bf16 once before it is added.
void linear_backward_weight(const at::Tensor& dy_TO, const at::Tensor& x_TI, at::Tensor& dw_OI);
// Adds to db [O] fp32.
void linear_backward_bias(const at::Tensor& dy_TO, at::Tensor& db_O);

}  // namespace vax::ops
