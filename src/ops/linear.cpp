// Products with results written in place; checks first, because an out= GEMM would resize a wrong
// result tensor instead of refusing it.
#include "ops/linear.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "ops/device/runtime.h"
#include "ops/matmul.h"
#include "ops/parallel.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

void check_matrices(const at::Tensor& x_TI, const char* x_name, const at::Tensor& w_OI,
                    const char* w_name, const at::Tensor& y_TO, const char* y_name) {
  VAX_CHECK(x_TI.dim() == 2, x_name, " has shape ", x_TI.sizes(), ", expected [T, I]");
  VAX_CHECK(y_TO.dim() == 2, y_name, " has shape ", y_TO.sizes(), ", expected [T, O]");
  check_tensor(x_TI, x_name, {y_TO.size(0), x_TI.size(1)}, Types::kFloatOrBf16);
  check_tensor(y_TO, y_name, {x_TI.size(0), y_TO.size(1)}, Types::kFloatOrBf16);
  check_tensor(w_OI, w_name, {y_TO.size(1), x_TI.size(1)}, Types::kFloatOrBf16);
  check_same_type(x_TI, x_name, y_TO, y_name);
}

}  // namespace

void linear_forward(const at::Tensor& x_TI, const at::Tensor& w_OI, const at::Tensor& bias_O,
                    at::Tensor& y_TO) {
  check_matrices(x_TI, "x", w_OI, "w", y_TO, "y");
  check_same_type(x_TI, "x", w_OI, "w");
  if (bias_O.defined()) {
    check_tensor(bias_O, "bias", {y_TO.size(1)}, Types::kFloatOrBf16);
    check_same_type(x_TI, "x", bias_O, "bias");
  }
  if (bias_O.defined() && device::takes(y_TO)) {
    at::addmm_out(y_TO, bias_O, x_TI, w_OI.t());
    return;
  }
  if (bias_O.defined()) y_TO.copy_(bias_O.expand_as(y_TO));
  unchecked::matmul(x_TI, w_OI.t(), y_TO, bias_O.defined());
}

void linear_backward_input(const at::Tensor& dy_TO, const at::Tensor& w_OI, at::Tensor& dx_TI,
                           bool accumulate) {
  check_matrices(dx_TI, "dx", w_OI, "w", dy_TO, "dy");
  check_same_type(dy_TO, "dy", w_OI, "w");
  unchecked::matmul(dy_TO, w_OI, dx_TI, accumulate);
}

void linear_backward_weight(const at::Tensor& dy_TO, const at::Tensor& x_TI, at::Tensor& dw_OI,
                            bool accumulate) {
  check_matrices(x_TI, "x", dw_OI, "dw", dy_TO, "dy");
  check_tensor(dw_OI, "dw", dw_OI.sizes(), Types::kFloat);
  unchecked::matmul(dy_TO.t(), x_TI, dw_OI, accumulate);
}

void linear_backward_bias(const at::Tensor& dy_TO, at::Tensor& db_O, bool accumulate) {
  VAX_CHECK(dy_TO.dim() == 2, "dy has shape ", dy_TO.sizes(), ", expected [T, O]");
  check_tensor(dy_TO, "dy", dy_TO.sizes(), Types::kFloatOrBf16);
  check_tensor(db_O, "db", {dy_TO.size(1)}, Types::kFloat);
  if (device::takes(db_O)) {
    if (accumulate) {
      db_O.add_(at::sum(dy_TO, {0}, /*keepdim=*/false, at::kFloat));
    } else {
      at::sum_out(db_O, dy_TO, {0}, /*keepdim=*/false, at::kFloat);
    }
    return;
  }
  if (!accumulate) db_O.zero_();
  const int64_t num_rows = dy_TO.size(0);
  float* db = db_O.mutable_data_ptr<float>();
  parallel_for(0, dy_TO.size(1), grain_rows(num_rows), [&](int64_t begin, int64_t end) {
    linear_kernels.cpu().column_sums(const_rows(dy_TO), num_rows, begin, end, db);
  });
}

}  // namespace vax::ops
