#include "model/adapted_linear.h"

#include <ATen/ATen.h>

#include "ops/linear.h"
#include "ops/lora.h"

namespace vax::model {

void adapted_forward(const AdaptedLinear& layer, const UnitTensors& weights,
                     const BlockContext& context, const at::Tensor& x_TI, at::Tensor& y_TO,
                     std::span<at::Tensor> u) {
  ops::linear_forward(x_TI, weights[layer.weight], weights[layer.bias], y_TO);
  for (size_t i = 0; i < layer.branches.size(); ++i) {
    const Branch& branch = layer.branches[i];
    const at::Tensor& a_RI = weights[lora_a_role(branch.projection)];
    if (!a_RI.defined()) continue;
    u[i] = at::empty({x_TI.size(0), a_RI.size(0)}, x_TI.options().dtype(at::kFloat));
    at::Tensor y_columns = y_TO.narrow(1, branch.begin, branch.width);
    ops::lora_forward(x_TI, a_RI, weights[lora_b_role(branch.projection)],
                      context.dims.lora.scale(), context.dropout_of(branch.projection), u[i],
                      y_columns);
  }
}

void adapted_backward(const AdaptedLinear& layer, const UnitTensors& weights,
                      UnitTensors* gradients, const BlockContext& context, const at::Tensor& dy_TO,
                      const at::Tensor& x_TI, std::span<const at::Tensor> u, at::Tensor& dx_TI) {
  if (dx_TI.defined()) ops::linear_backward_input(dy_TO, weights[layer.weight], dx_TI, false);
  if (gradients != nullptr) {
    UnitTensors& d = *gradients;
    if (d[layer.weight].defined()) ops::linear_backward_weight(dy_TO, x_TI, d[layer.weight]);
    if (d[layer.bias].defined()) ops::linear_backward_bias(dy_TO, d[layer.bias]);
  }
  at::Tensor none_a, none_b;
  for (size_t i = 0; i < layer.branches.size(); ++i) {
    const Branch& branch = layer.branches[i];
    const Role a = lora_a_role(branch.projection), b = lora_b_role(branch.projection);
    if (!weights[a].defined()) continue;
    at::Tensor& da_RI = gradients != nullptr ? (*gradients)[a] : none_a;
    at::Tensor& db_OR = gradients != nullptr ? (*gradients)[b] : none_b;
    if (!dx_TI.defined() && !da_RI.defined()) continue;
    ops::lora_backward(dy_TO.narrow(1, branch.begin, branch.width), x_TI, u[i], weights[a],
                       weights[b], context.dims.lora.scale(), context.dropout_of(branch.projection),
                       dx_TI, da_RI, db_OR);
  }
}

}  // namespace vax::model
