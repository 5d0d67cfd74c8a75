// Linear layers in 8-bit floats: launches of quantise.cu around LibTorch's scaled product.
#include <ATen/ATen.h>

#include "ops/device/library.h"
#include "ops/device/ops.h"
#include "ops/device/product_kernels.h"
#include "ops/device/runtime.h"
#include "ops/tensor_rows.h"

namespace vax::ops::device {
namespace {

uint8_t* bytes_of(const at::Tensor& e4m3) {
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
  launch_quantise_rows(args, bytes_of(result.e4m3_TC), result.scale_T1.mutable_data_ptr<float>(),
                       compute_stream());
  return result;
}

// The product is written at multiples of 16 bytes.
bool takes_product(const at::Tensor& c_MN) {
  constexpr int64_t kAlignment = 16;
  return reinterpret_cast<uintptr_t>(c_MN.const_data_ptr()) % kAlignment == 0 &&
         c_MN.stride(0) * c_MN.element_size() % kAlignment == 0;
}

void multiply(const ScaledOperands& operands, const at::Tensor& bias_N, at::Tensor& c_MN) {
  if (c_MN.size(0) == 0) return;
  if (takes_product(c_MN)) return scaled_product(operands, bias_N, c_MN);
  at::Tensor product = at::empty(c_MN.sizes(), c_MN.options());
  scaled_product(operands, bias_N, product);
  c_MN.copy_(product);
}

}  // namespace

void quantise_weight(const at::Tensor& w_OI, const Fp8Weight& weight) {
  const QuantiseArgs args = quantise_args(w_OI);
  float* scale = weight.scale_O.mutable_data_ptr<float>();
  launch_quantise_rows(args, bytes_of(weight.by_rows_OI), scale, compute_stream());
  if (!weight.by_columns_IO.defined()) return;
  launch_quantise_transposed(args, scale, bytes_of(weight.by_columns_IO), compute_stream());
}

void fp8_linear_forward(const at::Tensor& x_TI, const Fp8Weight& weight, const at::Tensor& bias_O,
                        at::Tensor& y_TO) {
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
  const Quantised dy = quantised_rows(dy_TO, weight.scale_O);
  const at::Tensor ones = at::ones({1, dx_TI.size(1)}, weight.scale_O.options());
  multiply({.a_MK = dy.e4m3_TC,
            .b_KN = weight.by_columns_IO.t(),
            .scale_a_M1 = dy.scale_T1,
            .scale_b_1N = ones,
            .fast_sums = false},
           {}, dx_TI);
}

}  // namespace vax::ops::device
