#include "model/attention_half.h"

#include <ATen/ATen.h>

#include "model/adapted_linear.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"

namespace vax::model {
namespace {

std::array<Branch, 3> qkv_branches(const BlockDims& dims) {
  return {Branch{kQ, 0, dims.query_width()}, Branch{kK, dims.query_width(), dims.kv_width()},
          Branch{kV, dims.query_width() + dims.kv_width(), dims.kv_width()}};
}

std::array<Branch, 1> out_branches(const BlockDims& dims) {
  return {Branch{kO, 0, dims.hidden_size}};
}

// Query and key heads of the fused matrix as [T, H + KV, K].
at::Tensor rotated_heads(const BlockDims& dims, const at::Tensor& qkv_TC) {
  return qkv_TC.narrow(1, 0, dims.query_width() + dims.kv_width())
      .view({qkv_TC.size(0), dims.attention.num_heads + dims.attention.num_kv_heads,
             dims.attention.head_dim});
}

// rstd, qkv after rotation and its LoRA activations.
void project_qkv(const BlockContext& context, const UnitTensors& weights, const at::Tensor& x_TD,
                 AttentionSaved& saved) {
  const BlockDims& dims = context.dims;
  const int64_t num_tokens = x_TD.size(0);
  const auto compute = x_TD.options().dtype(dims.compute_dtype);
  const std::array qkv = qkv_branches(dims);

  at::Tensor normed_TD = at::empty({num_tokens, dims.hidden_size}, compute);
  saved.rstd_T = at::empty({num_tokens}, x_TD.options().dtype(at::kFloat));
  ops::rms_norm_forward(x_TD, weights[kInputNorm], dims.rms_norm_eps, normed_TD, saved.rstd_T);

  saved.qkv_TC = at::empty({num_tokens, dims.qkv_width()}, compute);
  adapted_forward({kQkv, kQkvBias, qkv}, weights, context, normed_TD, saved.qkv_TC, saved.qkv_u);
  at::Tensor heads = rotated_heads(dims, saved.qkv_TC);
  ops::rotary_forward(heads, context.cos_PK, context.sin_PK, context.positions_T);
}

// e from o, with o's LoRA activation.
at::Tensor project_out(const BlockContext& context, const UnitTensors& weights,
                       AttentionSaved& saved) {
  const std::array out = out_branches(context.dims);
  at::Tensor e_TD = at::empty({saved.o_TC.size(0), context.dims.hidden_size}, saved.o_TC.options());
  adapted_forward({kAttnOut, kAttnOutBias, out}, weights, context, saved.o_TC, e_TD, saved.out_u);
  return e_TD;
}

std::span<const int32_t> span_of(const at::Tensor& values) {
  return {values.const_data_ptr<int32_t>(), static_cast<size_t>(values.numel())};
}

}  // namespace

at::Tensor attention_forward(const BlockContext& context, const UnitTensors& weights,
                             const at::Tensor& x_TD, AttentionSaved& saved) {
  const BlockDims& dims = context.dims;
  project_qkv(context, weights, x_TD, saved);
  saved.o_TC = at::empty({x_TD.size(0), dims.query_width()}, saved.qkv_TC.options());
  saved.lse_TH = at::empty({x_TD.size(0), dims.attention.num_heads}, saved.rstd_T.options());
  ops::attention_forward(saved.qkv_TC, dims.attention, context.sequences, saved.o_TC, saved.lse_TH);
  return project_out(context, weights, saved);
}

KeyValues split_key_values(const BlockDims& dims, const at::Tensor& qkv_TC) {
  const auto heads = [&](int64_t begin) {
    return qkv_TC.narrow(1, begin, dims.kv_width())
        .unflatten(1, {dims.attention.num_kv_heads, dims.attention.head_dim});
  };
  return {.k = heads(dims.query_width()), .v = heads(dims.query_width() + dims.kv_width())};
}

at::Tensor attention_decode_forward(const BlockContext& context, const UnitTensors& weights,
                                    const at::Tensor& x_BD, const CachePlaces& places,
                                    KeyValues& cache) {
  const BlockDims& dims = context.dims;
  AttentionSaved saved;
  project_qkv(context, weights, x_BD, saved);
  const KeyValues key_values = split_key_values(dims, saved.qkv_TC);
  const c10::List<std::optional<at::Tensor>> own({places.slots_B, places.lengths_B - 1});
  cache.k.index_put_(own, key_values.k);
  cache.v.index_put_(own, key_values.v);
  saved.o_TC = at::empty({x_BD.size(0), dims.query_width()}, saved.qkv_TC.options());
  ops::attention_decode(saved.qkv_TC.narrow(1, 0, dims.query_width()), cache.k, cache.v,
                        span_of(places.slots_B), span_of(places.lengths_B), dims.attention,
                        saved.o_TC);
  return project_out(context, weights, saved);
}

void attention_backward(const BlockContext& context, const UnitTensors& weights,
                        UnitGradients* gradients, const at::Tensor& x_TD,
                        const AttentionSaved& saved, bool need_input_gradient,
                        at::Tensor& grad_TD) {
  const BlockDims& dims = context.dims;
  const std::array qkv = qkv_branches(dims);
  const std::array out = out_branches(dims);

  const at::Tensor de_TD = grad_TD.to(dims.compute_dtype);
  at::Tensor do_TC = at::empty_like(saved.o_TC);
  adapted_backward({kAttnOut, kAttnOutBias, out}, weights, gradients, context, de_TD, saved.o_TC,
                   saved.out_u, do_TC);

  at::Tensor dqkv_TC = at::empty_like(saved.qkv_TC);
  ops::attention_backward(do_TC, saved.qkv_TC, saved.o_TC, saved.lse_TH, dims.attention,
                          context.sequences, dqkv_TC);
  at::Tensor dheads = rotated_heads(dims, dqkv_TC);
  ops::rotary_backward(dheads, context.cos_PK, context.sin_PK, context.positions_T);

  at::Tensor normed_TD;
  if (gradients != nullptr) {
    normed_TD = at::empty_like(de_TD);
    ops::rms_norm_apply(x_TD, weights[kInputNorm], saved.rstd_T, normed_TD);
  }
  at::Tensor dnormed_TD;
  if (need_input_gradient) dnormed_TD = at::empty_like(de_TD);
  adapted_backward({kQkv, kQkvBias, qkv}, weights, gradients, context, dqkv_TC, normed_TD,
                   saved.qkv_u, dnormed_TD);
  if (!need_input_gradient) return;

  at::Tensor none;
  at::Tensor& dnorm_D = gradients != nullptr ? gradients->tensors[kInputNorm] : none;
  ops::rms_norm_backward(dnormed_TD, x_TD, weights[kInputNorm], saved.rstd_T, grad_TD, dnorm_D,
                         gradients != nullptr && gradients->accumulate);
}

}  // namespace vax::model
