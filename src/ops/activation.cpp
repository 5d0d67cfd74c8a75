// Read before written: dx may be dy or x.
#include "ops/activation.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "ops/tensor_rows.h"

namespace vax::ops {

void activation_forward(Activation kind, const at::Tensor& x_TF, at::Tensor& y_TF) {
  VAX_CHECK(y_TF.dim() == 2, "y has shape ", y_TF.sizes(), ", expected [T, F]");
  check_tensor(y_TF, "y", y_TF.sizes(), Types::kFloatOrBf16);
  check_tensor(x_TF, "x", y_TF.sizes(), Types::kFloatOrBf16);
  check_same_type(x_TF, "x", y_TF, "y");
  const ActivationArgs args{
      .cols = y_TF.size(1), .dy = {}, .x = const_rows(x_TF), .out = mutable_rows(y_TF)};
  run_rows(y_TF, activation_kernels,
           kind == Activation::kRelu ? &ActivationKernels::relu : &ActivationKernels::gelu, args,
           args.cols);
}

void activation_backward(Activation kind, const at::Tensor& dy_TF, const at::Tensor& x_TF,
                         at::Tensor& dx_TF) {
  VAX_CHECK(dy_TF.dim() == 2, "dy has shape ", dy_TF.sizes(), ", expected [T, F]");
  check_tensor(dy_TF, "dy", dy_TF.sizes(), Types::kFloatOrBf16);
  check_tensor(x_TF, "x", dy_TF.sizes(), Types::kFloatOrBf16);
  check_tensor(dx_TF, "dx", dy_TF.sizes(), Types::kFloatOrBf16);
  check_same_type(dy_TF, "dy", x_TF, "x");
  check_same_type(x_TF, "x", dx_TF, "dx");
  const ActivationArgs args{.cols = dy_TF.size(1),
                            .dy = const_rows(dy_TF),
                            .x = const_rows(x_TF),
                            .out = mutable_rows(dx_TF)};
  run_rows(dy_TF, activation_kernels,
           kind == Activation::kRelu ? &ActivationKernels::relu_backward
                                     : &ActivationKernels::gelu_backward,
           args, args.cols);
}

}  // namespace vax::ops
