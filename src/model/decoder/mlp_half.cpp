#include "model/decoder/mlp_half.h"

#include <ATen/ATen.h>

#include "model/decoder/adapted_linear.h"
#include "ops/activation.h"
#include "ops/swiglu.h"

namespace vax::model {
namespace {

Norm norm_of(const BlockContext& context, const UnitTensors& weights) {
  return {context.dims.norm, context.dims.norm_eps, kMlpNormRoles, weights};
}

ops::Activation plain_activation(MlpKind kind) {
  return kind == MlpKind::kRelu ? ops::Activation::kRelu : ops::Activation::kGelu;
}

// The norm's statistics, the up matrix and its LoRA activations.
void project_up(const BlockContext& context, const UnitTensors& weights, const at::Tensor& h_TD,
                MlpSaved& saved) {
  const BlockDims& dims = context.dims;
  const at::Tensor normed_TD =
      norm_of(context, weights).forward(h_TD, dims.compute_dtype, saved.norm);
  saved.up_TC = adapted_forward(dims.up, weights, context, normed_TD, saved.up_u);
}

at::Tensor activation_of(const BlockDims& dims, const at::Tensor& up_TC) {
  at::Tensor activation_TF = at::empty({up_TC.size(0), dims.intermediate_size}, up_TC.options());
  if (dims.mlp == MlpKind::kSwiglu)
    ops::swiglu_forward(up_TC, activation_TF);
  else
    ops::activation_forward(plain_activation(dims.mlp), up_TC, activation_TF);
  return activation_TF;
}

// In place: the up matrix becomes its own gradient.
void activation_backward(const BlockDims& dims, const at::Tensor& dactivation_TF,
                         at::Tensor& up_TC) {
  if (dims.mlp == MlpKind::kSwiglu)
    ops::swiglu_backward(dactivation_TF, up_TC, up_TC);
  else
    ops::activation_backward(plain_activation(dims.mlp), dactivation_TF, up_TC, up_TC);
}

}  // namespace

at::Tensor mlp_forward(const BlockContext& context, const UnitTensors& weights,
                       const at::Tensor& h_TD, MlpSaved& saved) {
  project_up(context, weights, h_TD, saved);
  const at::Tensor activation_TF = activation_of(context.dims, saved.up_TC);
  return adapted_forward(context.dims.down, weights, context, activation_TF, saved.down_u);
}

void mlp_recompute(const BlockContext& context, const UnitTensors& weights, const at::Tensor& h_TD,
                   bool weight_gradients, MlpSaved& saved) {
  project_up(context, weights, h_TD, saved);
  if (!weight_gradients || !weights[lora_a_role(kDown)].defined()) return;
  adapted_low_rank(context.dims.down, weights, context, activation_of(context.dims, saved.up_TC),
                   saved.down_u);
}

void mlp_backward(const BlockContext& context, const UnitTensors& weights, UnitGradients* gradients,
                  const at::Tensor& h_TD, MlpSaved& saved, at::Tensor& grad_TD) {
  const BlockDims& dims = context.dims;
  const Norm norm = norm_of(context, weights);
  const at::Tensor dy_TD = grad_TD.to(dims.compute_dtype);

  at::Tensor activation_TF;
  if (gradients != nullptr) activation_TF = activation_of(dims, saved.up_TC);
  at::Tensor dactivation_TF = at::empty({dy_TD.size(0), dims.intermediate_size}, dy_TD.options());
  adapted_backward(dims.down, weights, gradients, context, dy_TD, activation_TF, saved.down_u,
                   dactivation_TF);
  activation_backward(dims, dactivation_TF, saved.up_TC);

  at::Tensor normed_TD;
  if (gradients != nullptr) normed_TD = norm.again(h_TD, dims.compute_dtype, saved.norm);
  at::Tensor dnormed_TD = at::empty_like(dy_TD);
  adapted_backward(dims.up, weights, gradients, context, saved.up_TC, normed_TD, saved.up_u,
                   dnormed_TD);
  norm.backward(dnormed_TD, h_TD, saved.norm, gradients, grad_TD);
}

HalfBytes mlp_bytes(const BlockDims& dims, bool weight_gradients) {
  const int64_t s = dims.element_bytes(), hidden = dims.hidden_size, ffn = dims.intermediate_size;
  // The gradient of the output in the compute type; in fp32 it is the stream's itself.
  const int64_t cast = dims.compute_dtype == at::kFloat ? 0 : s * hidden;
  // The activation and the normed input, made again.
  const int64_t inputs = weight_gradients ? s * (ffn + hidden) : 0;
  return {.saved = norm_saved_bytes(dims.norm) + s * dims.up.out() +
                   low_rank_bytes(dims.up, dims.lora) + low_rank_bytes(dims.down, dims.lora),
          .forward = s * (2 * hidden + ffn),  // the norm's output, the activation, the output
          .backward = cast + s * (ffn + hidden) + inputs};
}

}  // namespace vax::model
