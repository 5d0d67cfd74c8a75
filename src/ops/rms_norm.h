// RMSNorm (arXiv 1910.07467): y = x * rstd * w, rstd = 1 / sqrt(mean(x^2) + eps), per row.
//   dx_i = rstd * (dy_i w_i - x_i * rstd^2 * mean(dy * w * x))
//   dw_i = sum over rows dy_i x_i rstd
// Saved by the caller: x (fp32) and rstd (4 bytes a row). Statistics and dx in fp32.
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

// SHAPES x [T, D] fp32, w [D] fp32 or bf16, y [T, D] fp32 or bf16 (written), rstd [T] fp32
// (written).
void rms_norm_forward(const at::Tensor& x_TD, const at::Tensor& w_D, double eps, at::Tensor& y_TD,
                      at::Tensor& rstd_T);
// y from x and a known rstd: what a backward needs of y without having kept it.
void rms_norm_apply(const at::Tensor& x_TD, const at::Tensor& w_D, const at::Tensor& rstd_T,
                    at::Tensor& y_TD);
// dy [T, D] fp32 or bf16; dx [T, D] fp32 is added to; dw [D] fp32 is added to, or written unless
// `accumulate` (whatever it held), or undefined: not wanted.
void rms_norm_backward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const at::Tensor& w_D,
                       const at::Tensor& rstd_T, at::Tensor& dx_TD, at::Tensor& dw_D,
                       bool accumulate = true);

// Kernels: for rms_norm.cpp.

struct RmsNormArgs {
  int64_t cols;
  ConstRows x, w;  // x fp32; w one row
  float eps;
  float* rstd;
  Rows y;
};
struct RmsNormBackwardArgs {
  int64_t cols;
  ConstRows dy, x, w;
  const float* rstd;
  Rows dx;
};
struct RmsNormKernels {
  RowKernel<RmsNormArgs> forward;  // writes rstd too
  RowKernel<RmsNormArgs> apply;
  // `dw` unless null: on a CPU the rows' share is added to it, [cols]; on a device it becomes
  // partial sums, [num_partials(rows), cols].
  void (*backward)(const RmsNormBackwardArgs&, int64_t begin, int64_t end, float* dw);
  int64_t (*num_partials)(int64_t rows) = nullptr;  // of a device
};
VAX_KERNELS(RmsNormKernels, rms_norm_kernels);

}  // namespace vax::ops
