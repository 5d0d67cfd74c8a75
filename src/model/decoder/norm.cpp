#include "model/decoder/norm.h"

#include <ATen/ATen.h>

#include "ops/layer_norm.h"
#include "ops/rms_norm.h"

namespace vax::model {

int64_t norm_saved_bytes(NormKind kind) {
  constexpr int64_t kFloatBytes = sizeof(float);
  return kind == NormKind::kLayer ? 2 * kFloatBytes : kFloatBytes;
}

at::Tensor Norm::forward(const at::Tensor& x_TD, at::ScalarType type, NormSaved& saved) const {
  at::Tensor y_TD = at::empty(x_TD.sizes(), x_TD.options().dtype(type));
  saved.rstd_T = at::empty({x_TD.size(0)}, x_TD.options());
  if (kind_ == NormKind::kRms) {
    ops::rms_norm_forward(x_TD, weight(), eps_, y_TD, saved.rstd_T);
    return y_TD;
  }
  saved.mean_T = at::empty_like(saved.rstd_T);
  ops::layer_norm_forward(x_TD, weight(), bias(), eps_, y_TD, saved.mean_T, saved.rstd_T);
  return y_TD;
}

at::Tensor Norm::again(const at::Tensor& x_TD, at::ScalarType type, const NormSaved& saved) const {
  at::Tensor y_TD = at::empty(x_TD.sizes(), x_TD.options().dtype(type));
  if (kind_ == NormKind::kRms)
    ops::rms_norm_apply(x_TD, weight(), saved.rstd_T, y_TD);
  else
    ops::layer_norm_apply(x_TD, weight(), bias(), saved.mean_T, saved.rstd_T, y_TD);
  return y_TD;
}

void Norm::backward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const NormSaved& saved,
                    UnitGradients* gradients, at::Tensor& dx_TD) const {
  at::Tensor none_w, none_b;
  at::Tensor& dw_D = gradients != nullptr ? gradients->tensors[roles_.weight] : none_w;
  at::Tensor& db_D = gradients != nullptr ? gradients->tensors[roles_.bias] : none_b;
  const bool accumulate = gradients != nullptr && gradients->accumulate;
  if (kind_ == NormKind::kRms)
    ops::rms_norm_backward(dy_TD, x_TD, weight(), saved.rstd_T, dx_TD, dw_D, accumulate);
  else
    ops::layer_norm_backward(dy_TD, x_TD, weight(), saved.mean_T, saved.rstd_T, dx_TD, dw_D, db_D,
                             accumulate);
}

}  // namespace vax::model
