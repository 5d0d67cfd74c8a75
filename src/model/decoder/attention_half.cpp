#include "model/decoder/attention_half.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "model/decoder/adapted_linear.h"
#include "ops/attention_decode.h"
#include "ops/device/transfer.h"
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
  ops::rms_norm_forward(x_TD, weights[kInputNorm], dims.norm_eps, normed_TD, saved.rstd_T);

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

void keep_key_values(const BlockContext& context, const at::Tensor& qkv_TC) {
  const BlockDims& dims = context.dims;
  const CachePlaces& places = *context.places;
  const auto heads = [&](int64_t begin) {
    return qkv_TC.narrow(1, begin, dims.kv_width())
        .unflatten(1, {dims.attention.num_kv_heads, dims.attention.head_dim});
  };
  const auto keep = [&](const at::Tensor& values, at::Tensor& cache) {
    if (places.lengths_B.defined()) {
      cache.index_put_({places.slots_B, places.lengths_B - 1}, values);
      return;
    }
    for (size_t s = 0; s < places.slots.size(); ++s) {
      const int64_t begin = places.offsets[s], length = places.offsets[s + 1] - begin;
      cache[places.slots[s]].narrow(0, 0, length).copy_(values.narrow(0, begin, length));
    }
  };
  keep(heads(dims.query_width()), context.cache->k);
  keep(heads(dims.query_width() + dims.kv_width()), context.cache->v);
}

// o and lse from qkv; of new tokens o from the cache, which has their keys and values already.
void attend(const BlockContext& context, AttentionSaved& saved) {
  const BlockDims& dims = context.dims;
  const int64_t num_tokens = saved.qkv_TC.size(0);
  saved.o_TC = at::empty({num_tokens, dims.query_width()}, saved.qkv_TC.options());
  if (context.cache != nullptr && context.places->lengths_B.defined()) {
    ops::attention_decode(saved.qkv_TC.narrow(1, 0, dims.query_width()), context.cache->k,
                          context.cache->v, span_of(context.places->slots_B),
                          span_of(context.places->lengths_B), dims.attention, saved.o_TC);
    return;
  }
  saved.lse_TH = at::empty({num_tokens, dims.attention.num_heads}, saved.rstd_T.options());
  ops::attention_forward(saved.qkv_TC, dims.attention, context.sequences, saved.o_TC, saved.lse_TH);
}

}  // namespace

CachePlaces places_of(const PackedBatch& batch, std::span<const int32_t> slots, at::Device device) {
  CachePlaces places{.slots = slots, .offsets = batch.offsets};
  if (batch.empty() || batch.positions.front() == 0) return places;
  VAX_CHECK(batch.num_tokens() == batch.num_sequences(), batch.num_tokens(), " new tokens of ",
            batch.num_sequences(), " sequences");
  places.slots_B = ops::device::to_device(
      at::tensor(at::ArrayRef<int32_t>(slots.data(), slots.size()), at::kInt), device);
  places.lengths_B = ops::device::to_device(at::tensor(batch.positions, at::kInt) + 1, device);
  return places;
}

at::Tensor attention_forward(const BlockContext& context, const UnitTensors& weights,
                             const at::Tensor& x_TD, AttentionSaved& saved) {
  project_qkv(context, weights, x_TD, saved);
  if (context.cache != nullptr) keep_key_values(context, saved.qkv_TC);
  attend(context, saved);
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
