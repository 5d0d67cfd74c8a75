// Norms, rotary embedding and SwiGLU on a device: arguments for the kernels.
#include <ATen/ATen.h>

#include "ops/device/kernels.h"
#include "ops/device/ops.h"
#include "ops/device/runtime.h"
#include "ops/tensor_rows.h"

namespace vax::ops::device {
namespace {

RmsNormArgs rms_norm_args(const at::Tensor& x_TD, const at::Tensor& w_D, double eps,
                          const at::Tensor& y_TD, const at::Tensor& rstd_T) {
  return {.cols = x_TD.size(1),
          .x = const_rows(x_TD),
          .w = const_rows(w_D),
          .eps = static_cast<float>(eps),
          .rstd = rstd_T.mutable_data_ptr<float>(),
          .y = mutable_rows(y_TD)};
}

}  // namespace

void rms_norm_forward(const at::Tensor& x_TD, const at::Tensor& w_D, double eps, at::Tensor& y_TD,
                      at::Tensor& rstd_T) {
  launch_rms_norm_forward(rms_norm_args(x_TD, w_D, eps, y_TD, rstd_T), x_TD.size(0),
                          compute_stream());
}

void rms_norm_apply(const at::Tensor& x_TD, const at::Tensor& w_D, const at::Tensor& rstd_T,
                    at::Tensor& y_TD) {
  launch_rms_norm_apply(rms_norm_args(x_TD, w_D, 0, y_TD, rstd_T), x_TD.size(0), compute_stream());
}

void rms_norm_backward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const at::Tensor& w_D,
                       const at::Tensor& rstd_T, at::Tensor& dx_TD, at::Tensor& dw_D,
                       bool accumulate) {
  const int64_t num_rows = x_TD.size(0), cols = x_TD.size(1);
  const RmsNormBackwardArgs args{.cols = cols,
                                 .dy = const_rows(dy_TD),
                                 .x = const_rows(x_TD),
                                 .w = const_rows(w_D),
                                 .rstd = rstd_T.const_data_ptr<float>(),
                                 .dx = mutable_rows(dx_TD)};
  if (!dw_D.defined()) {
    launch_rms_norm_backward(args, num_rows, nullptr, compute_stream());
    return;
  }
  const int64_t num_partials = rms_norm_partials(num_rows);
  const at::Tensor partials = at::empty({num_partials, cols}, dw_D.options());
  launch_rms_norm_backward(args, num_rows, partials.mutable_data_ptr<float>(), compute_stream());
  launch_add_partials(partials.const_data_ptr<float>(), num_partials, cols,
                      dw_D.mutable_data_ptr<float>(), accumulate, compute_stream());
}

void rotate(const at::Tensor& x_THK, const at::Tensor& cos_PK, const at::Tensor& sin_PK,
            const at::Tensor& positions_T, float sign) {
  const int64_t half = x_THK.size(2) / 2;
  launch_rotary({.num_heads = x_THK.size(1),
                 .half_dim = half,
                 .head_stride = x_THK.stride(1),
                 .x = mutable_rows(x_THK),
                 .cos = cos_PK.const_data_ptr<float>(),
                 .sin = sin_PK.const_data_ptr<float>(),
                 .angle_stride = half,
                 .positions = positions_T.const_data_ptr<int32_t>(),
                 .sign = sign},
                x_THK.size(0), compute_stream());
}

void swiglu_forward(const at::Tensor& gate_up_TC, at::Tensor& y_TF) {
  launch_swiglu_forward({.cols = y_TF.size(1),
                         .dy = {},
                         .gate_up = const_rows(gate_up_TC),
                         .out = mutable_rows(y_TF)},
                        y_TF.size(0), compute_stream());
}

void swiglu_backward(const at::Tensor& dy_TF, const at::Tensor& gate_up_TC,
                     at::Tensor& dgate_up_TC) {
  launch_swiglu_backward({.cols = dy_TF.size(1),
                          .dy = const_rows(dy_TF),
                          .gate_up = const_rows(gate_up_TC),
                          .out = mutable_rows(dgate_up_TC)},
                         dy_TF.size(0), compute_stream());
}

}  // namespace vax::ops::device
