// Layer norm (arXiv 1607.06450): y = n * w + b with n = (x - mean) * rstd, per row; mean and
// rstd = 1 / sqrt(mean((x - mean)^2) + eps) of the row.
//   dx_i = rstd * (g_i - mean(g) - n_i * mean(g * n)), g = dy * w
//   dw_i = sum over rows dy_i n_i          db_i = sum over rows dy_i
// Saved by the caller: x (fp32), mean and rstd (8 bytes a row). Statistics and dx in fp32.
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

// SHAPES x [T, D] fp32; w, b [D] fp32 or bf16, one type; y [T, D] fp32 or bf16 (written); mean,
// rstd [T] fp32 (written).
void layer_norm_forward(const at::Tensor& x_TD, const at::Tensor& w_D, const at::Tensor& b_D,
                        double eps, at::Tensor& y_TD, at::Tensor& mean_T, at::Tensor& rstd_T);
// y from x and known statistics: what a backward needs of y without having kept it.
void layer_norm_apply(const at::Tensor& x_TD, const at::Tensor& w_D, const at::Tensor& b_D,
                      const at::Tensor& mean_T, const at::Tensor& rstd_T, at::Tensor& y_TD);
// dy [T, D] fp32 or bf16; dx [T, D] fp32 is added to; dw, db [D] fp32 are added to, or written
// unless `accumulate` (whatever they held), or both undefined: not wanted.
void layer_norm_backward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const at::Tensor& w_D,
                         const at::Tensor& mean_T, const at::Tensor& rstd_T, at::Tensor& dx_TD,
                         at::Tensor& dw_D, at::Tensor& db_D, bool accumulate = true);

// Kernels: for layer_norm.cpp.

struct LayerNormArgs {
  int64_t cols;
  ConstRows x, w, b;  // x fp32; w, b one row each
  float eps;
  float *mean, *rstd;
  Rows y;
};
struct LayerNormBackwardArgs {
  int64_t cols;
  ConstRows dy, x, w;
  const float *mean, *rstd;
  Rows dx;
};
struct LayerNormKernels {
  RowKernel<LayerNormArgs> forward;  // writes mean and rstd too
  RowKernel<LayerNormArgs> apply;
  // `dwb` unless null, dw and db side by side: on a CPU the rows' share is added to it, [2 * cols];
  // on a device it becomes partial sums, [num_partials(rows), 2 * cols].
  void (*backward)(const LayerNormBackwardArgs&, int64_t begin, int64_t end, float* dwb);
  int64_t (*num_partials)(int64_t rows) = nullptr;  // of a device
};
VAX_KERNELS(LayerNormKernels, layer_norm_kernels);

}  // namespace vax::ops
