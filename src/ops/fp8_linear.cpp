// Checks; the work is done on the device.
#include "ops/fp8_linear.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "ops/device/ops.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

void check_device(const at::Tensor& tensor) {
  VAX_CHECK(device::takes(tensor), "8-bit floats need a GPU, and this tensor is on ",
            tensor.device());
}

// bf16 [T, columns]
void check_rows(const at::Tensor& tensor, const char* name, int64_t rows, int64_t columns) {
  check_tensor(tensor, name, {rows, columns}, Types::kFloatOrBf16);
  VAX_CHECK(tensor.scalar_type() == at::kBFloat16, name, " is ", tensor.scalar_type(),
            ", expected bfloat16");
  check_device(tensor);
}

void check_sizes(int64_t num_inputs, int64_t num_outputs) {
  VAX_CHECK(fp8_supports(num_inputs, num_outputs), "a layer from ", num_inputs, " to ", num_outputs,
            " channels cannot be computed in 8-bit floats: both must be multiples of 16");
}

int64_t bytes_of(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<int64_t>(tensor.nbytes()) : 0;
}

}  // namespace

bool fp8_supports(int64_t num_inputs, int64_t num_outputs) {
  return num_inputs > 0 && num_outputs > 0 && num_inputs % 16 == 0 && num_outputs % 16 == 0;
}

int64_t Fp8Weight::num_bytes() const {
  return bytes_of(by_rows_OI) + bytes_of(by_columns_IO) + bytes_of(scale_O);
}

Fp8Weight quantise_weight(const at::Tensor& w_OI, Fp8Copies copies) {
  VAX_CHECK(w_OI.dim() == 2, "w has shape ", w_OI.sizes(), ", expected [O, I]");
  check_rows(w_OI, "w", w_OI.size(0), w_OI.size(1));
  check_sizes(w_OI.size(1), w_OI.size(0));
  const int64_t num_outputs = w_OI.size(0), num_inputs = w_OI.size(1);
  const auto bytes = w_OI.options().dtype(at::kFloat8_e4m3fn);
  Fp8Weight weight;
  weight.scale_O = at::empty({num_outputs}, w_OI.options().dtype(at::kFloat));
  if (copies != Fp8Copies::kBackward)
    weight.by_rows_OI = at::empty({num_outputs, num_inputs}, bytes);
  if (copies != Fp8Copies::kForward) {
    weight.by_columns_IO = at::empty({num_inputs, num_outputs}, bytes);
  }
  device::quantise_weight(w_OI, weight);
  return weight;
}

void fp8_linear_forward(const at::Tensor& x_TI, const Fp8Weight& weight, const at::Tensor& bias_O,
                        at::Tensor& y_TO) {
  VAX_CHECK(weight.by_rows_OI.defined(), "the weight was not quantised for the forward");
  VAX_CHECK(x_TI.dim() == 2, "x has shape ", x_TI.sizes(), ", expected [T, I]");
  check_rows(x_TI, "x", x_TI.size(0), weight.by_rows_OI.size(1));
  check_rows(y_TO, "y", x_TI.size(0), weight.by_rows_OI.size(0));
  if (bias_O.defined()) {
    check_tensor(bias_O, "bias", {y_TO.size(1)}, Types::kFloatOrBf16);
    check_same_type(bias_O, "bias", y_TO, "y");
  }
  device::fp8_linear_forward(x_TI, weight, bias_O, y_TO);
}

void fp8_linear_backward_input(const at::Tensor& dy_TO, const Fp8Weight& weight,
                               at::Tensor& dx_TI) {
  VAX_CHECK(weight.by_columns_IO.defined(), "the weight was not quantised for the backward");
  VAX_CHECK(dy_TO.dim() == 2, "dy has shape ", dy_TO.sizes(), ", expected [T, O]");
  check_rows(dy_TO, "dy", dy_TO.size(0), weight.by_columns_IO.size(1));
  check_rows(dx_TI, "dx", dy_TO.size(0), weight.by_columns_IO.size(0));
  device::fp8_linear_backward_input(dy_TO, weight, dx_TI);
}

}  // namespace vax::ops
