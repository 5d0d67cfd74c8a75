#include "ops/layer_norm.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "ops/row_sums.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

LayerNormArgs checked_args(const at::Tensor& x_TD, const at::Tensor& w_D, const at::Tensor& b_D,
                           const at::Tensor& mean_T, const at::Tensor& rstd_T,
                           const at::Tensor& y_TD) {
  VAX_CHECK(x_TD.dim() == 2, "x has shape ", x_TD.sizes(), ", expected [T, D]");
  check_tensor(x_TD, "x", x_TD.sizes(), Types::kFloat);
  check_tensor(w_D, "w", {x_TD.size(1)}, Types::kFloatOrBf16);
  check_tensor(b_D, "b", {x_TD.size(1)}, Types::kFloatOrBf16);
  check_same_type(w_D, "w", b_D, "b");
  check_tensor(y_TD, "y", x_TD.sizes(), Types::kFloatOrBf16);
  check_tensor(mean_T, "mean", {x_TD.size(0)}, Types::kFloat);
  check_tensor(rstd_T, "rstd", {x_TD.size(0)}, Types::kFloat);
  return {.cols = x_TD.size(1),
          .x = const_rows(x_TD),
          .w = const_rows(w_D),
          .b = const_rows(b_D),
          .eps = 0,
          .mean = mean_T.mutable_data_ptr<float>(),
          .rstd = rstd_T.mutable_data_ptr<float>(),
          .y = mutable_rows(y_TD)};
}

float* data_or_null(const at::Tensor& sum_D) {
  return sum_D.defined() ? sum_D.mutable_data_ptr<float>() : nullptr;
}

}  // namespace

void layer_norm_forward(const at::Tensor& x_TD, const at::Tensor& w_D, const at::Tensor& b_D,
                        double eps, at::Tensor& y_TD, at::Tensor& mean_T, at::Tensor& rstd_T) {
  LayerNormArgs args = checked_args(x_TD, w_D, b_D, mean_T, rstd_T, y_TD);
  args.eps = static_cast<float>(eps);
  run_rows(x_TD, layer_norm_kernels, &LayerNormKernels::forward, args, args.cols);
}

void layer_norm_apply(const at::Tensor& x_TD, const at::Tensor& w_D, const at::Tensor& b_D,
                      const at::Tensor& mean_T, const at::Tensor& rstd_T, at::Tensor& y_TD) {
  const LayerNormArgs args = checked_args(x_TD, w_D, b_D, mean_T, rstd_T, y_TD);
  run_rows(x_TD, layer_norm_kernels, &LayerNormKernels::apply, args, args.cols);
}

void layer_norm_backward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const at::Tensor& w_D,
                         const at::Tensor& mean_T, const at::Tensor& rstd_T, at::Tensor& dx_TD,
                         at::Tensor& dw_D, at::Tensor& db_D, bool accumulate) {
  VAX_CHECK(x_TD.dim() == 2, "x has shape ", x_TD.sizes(), ", expected [T, D]");
  const int64_t num_rows = x_TD.size(0), cols = x_TD.size(1);
  check_tensor(dy_TD, "dy", x_TD.sizes(), Types::kFloatOrBf16);
  check_tensor(x_TD, "x", x_TD.sizes(), Types::kFloat);
  check_tensor(w_D, "w", {cols}, Types::kFloatOrBf16);
  check_tensor(mean_T, "mean", {num_rows}, Types::kFloat);
  check_tensor(rstd_T, "rstd", {num_rows}, Types::kFloat);
  check_tensor(dx_TD, "dx", x_TD.sizes(), Types::kFloat);
  VAX_CHECK(dw_D.defined() == db_D.defined(), "dw and db must both be defined or both undefined");
  if (dw_D.defined()) {
    check_tensor(dw_D, "dw", {cols}, Types::kFloat);
    check_tensor(db_D, "db", {cols}, Types::kFloat);
  }
  const LayerNormBackwardArgs args{.cols = cols,
                                   .dy = const_rows(dy_TD),
                                   .x = const_rows(x_TD),
                                   .w = const_rows(w_D),
                                   .mean = mean_T.const_data_ptr<float>(),
                                   .rstd = rstd_T.const_data_ptr<float>(),
                                   .dx = mutable_rows(dx_TD)};
  float* const sums[] = {data_or_null(dw_D), data_or_null(db_D)};
  run_backward(x_TD, layer_norm_kernels, args, sums, accumulate);
}

}  // namespace vax::ops
