#include "model/decoder/mlp_half.h"

#include <ATen/ATen.h>

#include "model/decoder/adapted_linear.h"
#include "ops/rms_norm.h"
#include "ops/swiglu.h"

namespace vax::model {
namespace {

std::array<Branch, 2> gate_up_branches(const BlockDims& dims) {
  return {Branch{kGate, 0, dims.intermediate_size},
          Branch{kUp, dims.intermediate_size, dims.intermediate_size}};
}

std::array<Branch, 1> down_branches(const BlockDims& dims) {
  return {Branch{kDown, 0, dims.hidden_size}};
}

// rstd, the gate-up matrix and its LoRA activations.
void project_gate_up(const BlockContext& context, const UnitTensors& weights,
                     const at::Tensor& h_TD, MlpSaved& saved) {
  const BlockDims& dims = context.dims;
  const int64_t num_tokens = h_TD.size(0);
  const auto compute = h_TD.options().dtype(dims.compute_dtype);
  const std::array gate_up = gate_up_branches(dims);
  at::Tensor normed_TD = at::empty({num_tokens, dims.hidden_size}, compute);
  saved.rstd_T = at::empty({num_tokens}, h_TD.options().dtype(at::kFloat));
  ops::rms_norm_forward(h_TD, weights[kPostNorm], dims.norm_eps, normed_TD, saved.rstd_T);
  saved.gate_up_TC = at::empty({num_tokens, 2 * dims.intermediate_size}, compute);
  adapted_forward({kGateUp, kGateUpBias, gate_up}, weights, context, normed_TD, saved.gate_up_TC,
                  saved.gate_up_u);
}

at::Tensor activation_of(const BlockDims& dims, const MlpSaved& saved) {
  at::Tensor activation_TF =
      at::empty({saved.gate_up_TC.size(0), dims.intermediate_size}, saved.gate_up_TC.options());
  ops::swiglu_forward(saved.gate_up_TC, activation_TF);
  return activation_TF;
}

}  // namespace

at::Tensor mlp_forward(const BlockContext& context, const UnitTensors& weights,
                       const at::Tensor& h_TD, MlpSaved& saved) {
  const BlockDims& dims = context.dims;
  const std::array down = down_branches(dims);
  project_gate_up(context, weights, h_TD, saved);
  const at::Tensor activation_TF = activation_of(dims, saved);
  at::Tensor y_TD =
      at::empty({h_TD.size(0), dims.hidden_size}, h_TD.options().dtype(dims.compute_dtype));
  adapted_forward({kMlpDown, kMlpDownBias, down}, weights, context, activation_TF, y_TD,
                  saved.down_u);
  return y_TD;
}

void mlp_recompute(const BlockContext& context, const UnitTensors& weights, const at::Tensor& h_TD,
                   bool weight_gradients, MlpSaved& saved) {
  const std::array down = down_branches(context.dims);
  project_gate_up(context, weights, h_TD, saved);
  if (!weight_gradients || !weights[lora_a_role(kDown)].defined()) return;
  adapted_low_rank({kMlpDown, kMlpDownBias, down}, weights, context,
                   activation_of(context.dims, saved), saved.down_u);
}

void mlp_backward(const BlockContext& context, const UnitTensors& weights, UnitGradients* gradients,
                  const at::Tensor& h_TD, MlpSaved& saved, at::Tensor& grad_TD) {
  const BlockDims& dims = context.dims;
  const std::array gate_up = gate_up_branches(dims);
  const std::array down = down_branches(dims);
  const at::Tensor dy_TD = grad_TD.to(dims.compute_dtype);
  const int64_t num_tokens = dy_TD.size(0);

  at::Tensor activation_TF;
  if (gradients != nullptr) activation_TF = activation_of(dims, saved);
  at::Tensor dactivation_TF = at::empty({num_tokens, dims.intermediate_size}, dy_TD.options());
  adapted_backward({kMlpDown, kMlpDownBias, down}, weights, gradients, context, dy_TD,
                   activation_TF, saved.down_u, dactivation_TF);
  // In place: the gate-up matrix becomes its own gradient.
  ops::swiglu_backward(dactivation_TF, saved.gate_up_TC, saved.gate_up_TC);

  at::Tensor normed_TD;
  if (gradients != nullptr) {
    normed_TD = at::empty_like(dy_TD);
    ops::rms_norm_apply(h_TD, weights[kPostNorm], saved.rstd_T, normed_TD);
  }
  at::Tensor dnormed_TD = at::empty_like(dy_TD);
  adapted_backward({kGateUp, kGateUpBias, gate_up}, weights, gradients, context, saved.gate_up_TC,
                   normed_TD, saved.gate_up_u, dnormed_TD);
  at::Tensor none;
  at::Tensor& dnorm_D = gradients != nullptr ? gradients->tensors[kPostNorm] : none;
  ops::rms_norm_backward(dnormed_TD, h_TD, weights[kPostNorm], saved.rstd_T, grad_TD, dnorm_D,
                         gradients != nullptr && gradients->accumulate);
}

}  // namespace vax::model
