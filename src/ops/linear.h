// Linear layers: y = x W^T + b, with the bias optional.
//   dx = dy W          dW = dy^T x          db = sum over rows of dy
// Nothing is saved but what the caller keeps (x). Precision: x, W, y and dy have one type (fp32 or
// bf16, "compute type"); dW and db are fp32. `accumulate`: a gradient is added to what its tensor
// holds; else it is written, whatever was there before (memory that nobody has set will do).
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

// SHAPES x [T, I], w [O, I], bias [O] or undefined, y [T, O] (written).
void linear_forward(const at::Tensor& x_TI, const at::Tensor& w_OI, const at::Tensor& bias_O,
                    at::Tensor& y_TO);
// SHAPES dx [T, I].
void linear_backward_input(const at::Tensor& dy_TO, const at::Tensor& w_OI, at::Tensor& dx_TI,
                           bool accumulate);
// SHAPES dw [O, I] fp32. In bf16 the product may be rounded to bf16 once first (matmul_to_float()).
void linear_backward_weight(const at::Tensor& dy_TO, const at::Tensor& x_TI, at::Tensor& dw_OI,
                            bool accumulate = true);
// SHAPES db [O] fp32.
void linear_backward_bias(const at::Tensor& dy_TO, at::Tensor& db_O, bool accumulate = true);

// Kernels: for linear.cpp.

struct LinearKernels {
  // db[c] += sum over all rows of dy, for columns [begin, end).
  void (*column_sums)(ConstRows dy, int64_t rows, int64_t begin, int64_t end, float* db);
};
VAX_CPU_KERNELS(LinearKernels, linear_kernels);

}  // namespace vax::ops
