// Products and linear layers by LibTorch. Its matrix products give the same bits for the same
// shapes as long as one stream makes them.
#include <ATen/ATen.h>

#include "ops/device/library.h"
#include "ops/device/ops.h"

namespace vax::ops::device {

void matmul(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN, bool accumulate) {
  if (accumulate) {
    at::addmm_out(c_MN, c_MN, a_MK, b_KN);
  } else {
    at::mm_out(c_MN, a_MK, b_KN);
  }
}

void matmul_to_float(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN,
                     bool accumulate) {
  product_to_float(a_MK, b_KN, c_MN, accumulate);
}

void linear_forward(const at::Tensor& x_TI, const at::Tensor& w_OI, const at::Tensor& bias_O,
                    at::Tensor& y_TO) {
  if (bias_O.defined()) {
    at::addmm_out(y_TO, bias_O, x_TI, w_OI.t());
  } else {
    at::mm_out(y_TO, x_TI, w_OI.t());
  }
}

void linear_backward_bias(const at::Tensor& dy_TO, at::Tensor& db_O, bool accumulate) {
  if (accumulate) {
    db_O.add_(at::sum(dy_TO, {0}, /*keepdim=*/false, at::kFloat));
  } else {
    at::sum_out(db_O, dy_TO, {0}, /*keepdim=*/false, at::kFloat);
  }
}

}  // namespace vax::ops::device
