#include "ops/rms_norm.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "ops/row_sums.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

RmsNormArgs checked_args(const at::Tensor& x_TD, const at::Tensor& w_D, const at::Tensor& rstd_T,
                         const at::Tensor& y_TD) {
  VAX_CHECK(x_TD.dim() == 2, "x has shape ", x_TD.sizes(), ", expected [T, D]");
  check_tensor(x_TD, "x", x_TD.sizes(), Types::kFloat);
  check_tensor(w_D, "w", {x_TD.size(1)}, Types::kFloatOrBf16);
  check_tensor(y_TD, "y", x_TD.sizes(), Types::kFloatOrBf16);
  check_tensor(rstd_T, "rstd", {x_TD.size(0)}, Types::kFloat);
  return {.cols = x_TD.size(1),
          .x = const_rows(x_TD),
          .w = const_rows(w_D),
          .eps = 0,
          .rstd = rstd_T.mutable_data_ptr<float>(),
          .y = mutable_rows(y_TD)};
}

}  // namespace

void rms_norm_forward(const at::Tensor& x_TD, const at::Tensor& w_D, double eps, at::Tensor& y_TD,
                      at::Tensor& rstd_T) {
  RmsNormArgs args = checked_args(x_TD, w_D, rstd_T, y_TD);
  args.eps = static_cast<float>(eps);
  run_rows(x_TD, rms_norm_kernels, &RmsNormKernels::forward, args, args.cols);
}

void rms_norm_apply(const at::Tensor& x_TD, const at::Tensor& w_D, const at::Tensor& rstd_T,
                    at::Tensor& y_TD) {
  const RmsNormArgs args = checked_args(x_TD, w_D, rstd_T, y_TD);
  run_rows(x_TD, rms_norm_kernels, &RmsNormKernels::apply, args, args.cols);
}

void rms_norm_backward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const at::Tensor& w_D,
                       const at::Tensor& rstd_T, at::Tensor& dx_TD, at::Tensor& dw_D,
                       bool accumulate) {
  VAX_CHECK(x_TD.dim() == 2, "x has shape ", x_TD.sizes(), ", expected [T, D]");
  const int64_t num_rows = x_TD.size(0), cols = x_TD.size(1);
  check_tensor(dy_TD, "dy", x_TD.sizes(), Types::kFloatOrBf16);
  check_tensor(x_TD, "x", x_TD.sizes(), Types::kFloat);
  check_tensor(w_D, "w", {cols}, Types::kFloatOrBf16);
  check_tensor(rstd_T, "rstd", {num_rows}, Types::kFloat);
  check_tensor(dx_TD, "dx", x_TD.sizes(), Types::kFloat);
  if (dw_D.defined()) check_tensor(dw_D, "dw", {cols}, Types::kFloat);
  const RmsNormBackwardArgs args{.cols = cols,
                                 .dy = const_rows(dy_TD),
                                 .x = const_rows(x_TD),
                                 .w = const_rows(w_D),
                                 .rstd = rstd_T.const_data_ptr<float>(),
                                 .dx = mutable_rows(dx_TD)};
  float* const sums[] = {dw_D.defined() ? dw_D.mutable_data_ptr<float>() : nullptr};
  run_backward(x_TD, rms_norm_kernels, args, sums, accumulate);
}

}  // namespace vax::ops
