// Rows are quantised by kernels of our own and multiplied by LibTorch's scaled product.
#include "ops/fp8_linear.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "ops/device/library.h"
#include "ops/device/runtime.h"
#include "ops/quantise.h"
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

uint8_t* e4m3_of(const at::Tensor& e4m3) {
  return e4m3.defined() ? static_cast<uint8_t*>(e4m3.mutable_data_ptr()) : nullptr;
}

QuantiseArgs quantise_args(const at::Tensor& x_RC) {
  return {
      .rows = x_RC.size(0), .cols = x_RC.size(1), .x = const_rows(x_RC), .col_factors = nullptr};
}

struct Quantised {
  at::Tensor e4m3_TC, scale_T1;
};

// One scale per row; factors_C: multiply the columns first, or undefined.
Quantised quantised_rows(const at::Tensor& x_TC, const at::Tensor& factors_C) {
  QuantiseArgs args = quantise_args(x_TC);
  if (factors_C.defined()) args.col_factors = factors_C.const_data_ptr<float>();
  Quantised result{at::empty(x_TC.sizes(), x_TC.options().dtype(at::kFloat8_e4m3fn)),
                   at::empty({x_TC.size(0), 1}, x_TC.options().dtype(at::kFloat))};
  quantise_kernels.device().rows(args, e4m3_of(result.e4m3_TC),
                                 result.scale_T1.mutable_data_ptr<float>());
  return result;
}

// The product is written at multiples of 16 bytes.
bool takes_product(const at::Tensor& c_MN) {
  constexpr int64_t kAlignment = 16;
  return reinterpret_cast<uintptr_t>(c_MN.const_data_ptr()) % kAlignment == 0 &&
         c_MN.stride(0) * c_MN.element_size() % kAlignment == 0;
}

void multiply(const device::ScaledOperands& operands, const at::Tensor& bias_N, at::Tensor& c_MN) {
  if (c_MN.size(0) == 0) return;
  if (takes_product(c_MN)) return device::scaled_product(operands, bias_N, c_MN);
  at::Tensor product = at::empty(c_MN.sizes(), c_MN.options());
  device::scaled_product(operands, bias_N, product);
  c_MN.copy_(product);
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
  const QuantiseArgs args = quantise_args(w_OI);
  const QuantiseKernels& kernels = quantise_kernels.device();
  float* scale = weight.scale_O.mutable_data_ptr<float>();
  kernels.rows(args, e4m3_of(weight.by_rows_OI), scale);
  if (weight.by_columns_IO.defined())
    kernels.transposed(args, scale, e4m3_of(weight.by_columns_IO));
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
  const Quantised x = quantised_rows(x_TI, {});
  multiply({.a_MK = x.e4m3_TC,
            .b_KN = weight.by_rows_OI.t(),
            .scale_a_M1 = x.scale_T1,
            .scale_b_1N = weight.scale_O.unsqueeze(0),
            .fast_sums = true},
           bias_O, y_TO);
}

void fp8_linear_backward_input(const at::Tensor& dy_TO, const Fp8Weight& weight,
                               at::Tensor& dx_TI) {
  VAX_CHECK(weight.by_columns_IO.defined(), "the weight was not quantised for the backward");
  VAX_CHECK(dy_TO.dim() == 2, "dy has shape ", dy_TO.sizes(), ", expected [T, O]");
  check_rows(dy_TO, "dy", dy_TO.size(0), weight.by_columns_IO.size(1));
  check_rows(dx_TI, "dx", dy_TO.size(0), weight.by_columns_IO.size(0));
  const Quantised dy = quantised_rows(dy_TO, weight.scale_O);
  const at::Tensor ones = at::ones({1, dx_TI.size(1)}, weight.scale_O.options());
  multiply({.a_MK = dy.e4m3_TC,
            .b_KN = weight.by_columns_IO.t(),
            .scale_a_M1 = dy.scale_T1,
            .scale_b_1N = ones,
            .fast_sums = false},
           {}, dx_TI);
}

}  // namespace vax::ops
