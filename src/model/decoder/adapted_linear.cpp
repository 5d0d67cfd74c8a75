#include "model/decoder/adapted_linear.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "ops/linear.h"
#include "ops/lora.h"

namespace vax::model {

namespace {

// y undefined: only u.
void run_branches(const LinearLayer& layer, const UnitTensors& weights, const BlockContext& context,
                  const at::Tensor& x_TI, const at::Tensor& y_TO, std::span<at::Tensor> u) {
  for (size_t i = 0; i < layer.branches.size(); ++i) {
    const Branch& branch = layer.branches[i];
    const at::Tensor& a_RI = weights[lora_a_role(branch.projection)];
    if (!a_RI.defined()) continue;
    u[i] = at::empty({x_TI.size(0), a_RI.size(0)}, x_TI.options().dtype(at::kFloat));
    at::Tensor y_columns;
    if (y_TO.defined()) y_columns = y_TO.narrow(1, branch.begin, branch.width);
    ops::lora_forward(x_TI, a_RI, weights[lora_b_role(branch.projection)],
                      context.dims.lora.scale(), context.dropout_of(branch.projection), u[i],
                      y_columns);
  }
}

int unit_of(const BlockContext& context) { return context.layer + 1; }

void forward_product(const LinearLayer& layer, const UnitTensors& weights,
                     const BlockContext& context, const at::Tensor& x_TI, at::Tensor& y_TO) {
  const at::Tensor& w_OI = weights[layer.weight];
  if (context.fp8 == nullptr) return ops::linear_forward(x_TI, w_OI, weights[layer.bias], y_TO);
  ops::fp8_linear_forward(x_TI, context.fp8->forward(unit_of(context), layer.weight, w_OI),
                          weights[layer.bias], y_TO);
}

void backward_product(const LinearLayer& layer, const UnitTensors& weights,
                      const BlockContext& context, const at::Tensor& dy_TO, at::Tensor& dx_TI) {
  const at::Tensor& w_OI = weights[layer.weight];
  if (context.fp8 == nullptr) return ops::linear_backward_input(dy_TO, w_OI, dx_TI, false);
  ops::fp8_linear_backward_input(dy_TO, context.fp8->backward(unit_of(context), layer.weight, w_OI),
                                 dx_TI);
}

}  // namespace

at::Tensor adapted_forward(const LinearLayer& layer, const UnitTensors& weights,
                           const BlockContext& context, const at::Tensor& x_TI,
                           std::span<at::Tensor> u) {
  at::Tensor y_TO = at::empty({x_TI.size(0), layer.out()}, x_TI.options());
  forward_product(layer, weights, context, x_TI, y_TO);
  run_branches(layer, weights, context, x_TI, y_TO, u);
  return y_TO;
}

void adapted_low_rank(const LinearLayer& layer, const UnitTensors& weights,
                      const BlockContext& context, const at::Tensor& x_TI,
                      std::span<at::Tensor> u) {
  run_branches(layer, weights, context, x_TI, at::Tensor(), u);
}

void adapted_backward(const LinearLayer& layer, const UnitTensors& weights,
                      UnitGradients* gradients, const BlockContext& context,
                      const at::Tensor& dy_TO, const at::Tensor& x_TI,
                      std::span<const at::Tensor> u, at::Tensor& dx_TI) {
  if (dx_TI.defined()) backward_product(layer, weights, context, dy_TO, dx_TI);
  if (gradients != nullptr) {
    UnitTensors& d = gradients->tensors;
    if (d[layer.weight].defined())
      ops::linear_backward_weight(dy_TO, x_TI, d[layer.weight], gradients->accumulate);
    if (d[layer.bias].defined())
      ops::linear_backward_bias(dy_TO, d[layer.bias], gradients->accumulate);
  }
  at::Tensor none_a, none_b;
  const bool accumulate = gradients != nullptr && gradients->accumulate;
  for (size_t i = 0; i < layer.branches.size(); ++i) {
    const Branch& branch = layer.branches[i];
    const Role a = lora_a_role(branch.projection), b = lora_b_role(branch.projection);
    if (!weights[a].defined()) continue;
    at::Tensor& da_RI = gradients != nullptr ? gradients->tensors[a] : none_a;
    at::Tensor& db_OR = gradients != nullptr ? gradients->tensors[b] : none_b;
    if (!dx_TI.defined() && !da_RI.defined()) continue;
    ops::lora_backward(dy_TO.narrow(1, branch.begin, branch.width), x_TI, u[i], weights[a],
                       weights[b], context.dims.lora.scale(), context.dropout_of(branch.projection),
                       dx_TI, da_RI, db_OR, accumulate);
  }
}

int64_t low_rank_bytes(const LinearLayer& layer, const LoraSpec& lora) {
  const auto adapted = std::ranges::count_if(layer.branches, [&](const Branch& branch) {
    return lora.targets[static_cast<size_t>(branch.projection)];
  });
  return static_cast<int64_t>(sizeof(float)) * lora.r * adapted;
}

int64_t weight_product_bytes(const BlockDims& dims, const PassShape& pass, int64_t rows,
                             int64_t cols) {
  const bool makes_products = dims.train_base && pass.weight_gradients &&
                              dims.compute_dtype != at::kFloat && !pass.on_device;
  if (!makes_products) return 0;
  return 2 * cols * std::min(rows, std::max<int64_t>(128, (int64_t{1} << 20) / cols));
}

}  // namespace vax::model
