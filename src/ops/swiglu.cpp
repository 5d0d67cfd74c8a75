// Read before written: dgate_up may be gate_up.
#include "ops/swiglu.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "ops/tensor_rows.h"

namespace vax::ops {

void swiglu_forward(const at::Tensor& gate_up_TC, at::Tensor& y_TF) {
  VAX_CHECK(y_TF.dim() == 2, "y has shape ", y_TF.sizes(), ", expected [T, F]");
  const int64_t num_rows = y_TF.size(0), cols = y_TF.size(1);
  check_tensor(y_TF, "y", y_TF.sizes(), Types::kFloatOrBf16);
  check_tensor(gate_up_TC, "gate_up", {num_rows, 2 * cols}, Types::kFloatOrBf16);
  check_same_type(gate_up_TC, "gate_up", y_TF, "y");
  const SwigluArgs args{
      .cols = cols, .dy = {}, .gate_up = const_rows(gate_up_TC), .out = mutable_rows(y_TF)};
  run_rows(y_TF, swiglu_kernels, &SwigluKernels::forward, args, cols);
}

void swiglu_backward(const at::Tensor& dy_TF, const at::Tensor& gate_up_TC,
                     at::Tensor& dgate_up_TC) {
  VAX_CHECK(dy_TF.dim() == 2, "dy has shape ", dy_TF.sizes(), ", expected [T, F]");
  const int64_t num_rows = dy_TF.size(0), cols = dy_TF.size(1);
  check_tensor(dy_TF, "dy", dy_TF.sizes(), Types::kFloatOrBf16);
  check_tensor(gate_up_TC, "gate_up", {num_rows, 2 * cols}, Types::kFloatOrBf16);
  check_tensor(dgate_up_TC, "dgate_up", {num_rows, 2 * cols}, Types::kFloatOrBf16);
  check_same_type(dy_TF, "dy", gate_up_TC, "gate_up");
  check_same_type(gate_up_TC, "gate_up", dgate_up_TC, "dgate_up");
  const SwigluArgs args{.cols = cols,
                        .dy = const_rows(dy_TF),
                        .gate_up = const_rows(gate_up_TC),
                        .out = mutable_rows(dgate_up_TC)};
  run_rows(dy_TF, swiglu_kernels, &SwigluKernels::backward, args, 2 * cols);
}

}  // namespace vax::ops
