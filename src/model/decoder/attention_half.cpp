#include "model/decoder/attention_half.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "base/narrow.h"
#include "model/decoder/adapted_linear.h"
#include "ops/attention_decode.h"
#include "ops/device/transfer.h"
#include "ops/rotary.h"

namespace vax::model {
namespace {

constexpr int64_t kFloatBytes = sizeof(float);

Norm norm_of(const BlockContext& context, const UnitTensors& weights) {
  return {context.dims.norm, context.dims.norm_eps, kAttentionNormRoles, weights};
}

// Query and key heads of the fused matrix as [T, H + KV, K].
at::Tensor rotated_heads(const BlockDims& dims, const at::Tensor& qkv_TC) {
  return qkv_TC.narrow(1, 0, dims.query_width() + dims.kv_width())
      .view({qkv_TC.size(0), dims.attention.num_heads + dims.attention.num_kv_heads,
             dims.attention.head_dim});
}

// The norm's statistics, qkv after rotation and its LoRA activations.
void project_qkv(const BlockContext& context, const UnitTensors& weights, const at::Tensor& x_TD,
                 AttentionSaved& saved) {
  const BlockDims& dims = context.dims;
  const at::Tensor normed_TD =
      norm_of(context, weights).forward(x_TD, dims.compute_dtype, saved.norm);
  saved.qkv_TC = adapted_forward(dims.qkv, weights, context, normed_TD, saved.qkv_u);
  at::Tensor heads = rotated_heads(dims, saved.qkv_TC);
  ops::rotary_forward(heads, context.cos_PK, context.sin_PK, context.positions_T);
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
  saved.lse_TH = at::empty({num_tokens, dims.attention.num_heads}, saved.norm.rstd_T.options());
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
  return adapted_forward(context.dims.attention_out, weights, context, saved.o_TC, saved.out_u);
}

void attention_backward(const BlockContext& context, const UnitTensors& weights,
                        UnitGradients* gradients, const at::Tensor& x_TD,
                        const AttentionSaved& saved, bool need_input_gradient,
                        at::Tensor& grad_TD) {
  const BlockDims& dims = context.dims;
  const Norm norm = norm_of(context, weights);
  const at::Tensor de_TD = grad_TD.to(dims.compute_dtype);
  at::Tensor do_TC = at::empty_like(saved.o_TC);
  adapted_backward(dims.attention_out, weights, gradients, context, de_TD, saved.o_TC, saved.out_u,
                   do_TC);

  at::Tensor dqkv_TC = at::empty_like(saved.qkv_TC);
  ops::attention_backward(do_TC, saved.qkv_TC, saved.o_TC, saved.lse_TH, dims.attention,
                          context.sequences, dqkv_TC);
  at::Tensor dheads = rotated_heads(dims, dqkv_TC);
  ops::rotary_backward(dheads, context.cos_PK, context.sin_PK, context.positions_T);

  at::Tensor normed_TD;
  if (gradients != nullptr) normed_TD = norm.again(x_TD, dims.compute_dtype, saved.norm);
  at::Tensor dnormed_TD;
  if (need_input_gradient) dnormed_TD = at::empty_like(de_TD);
  adapted_backward(dims.qkv, weights, gradients, context, dqkv_TC, normed_TD, saved.qkv_u,
                   dnormed_TD);
  if (need_input_gradient) norm.backward(dnormed_TD, x_TD, saved.norm, gradients, grad_TD);
}

HalfBytes attention_bytes(const BlockDims& dims, bool weight_gradients) {
  const int64_t s = dims.element_bytes(), hidden = dims.hidden_size;
  const int64_t qkv = dims.qkv.out(), query = dims.query_width();
  const int64_t lse = kFloatBytes * dims.attention.num_heads;
  // The gradient of e in the compute type; in fp32 it is the stream's itself.
  const int64_t cast = dims.compute_dtype == at::kFloat ? 0 : s * hidden;
  const int64_t normed = weight_gradients ? s * hidden : 0;  // made again
  return {.saved = norm_saved_bytes(dims.norm) + s * (qkv + query) + lse +
                   low_rank_bytes(dims.qkv, dims.lora) +
                   low_rank_bytes(dims.attention_out, dims.lora),
          .forward = s * 2 * hidden,  // the norm's output and e
          .backward = cast + s * (query + qkv + hidden) + normed};
}

// In the backward on a device (ops/attention.cpp): the gradients of its output and of the fused
// matrix, those that LibTorch's kernels return, and their scratch.
int64_t attention_device_bytes(const BlockDims& dims, const PassShape& pass) {
  const int64_t s = dims.element_bytes(), query = dims.query_width(), kv = dims.kv_width();
  const int64_t heads = dims.attention.num_heads;
  const bool shares_keys = heads != dims.attention.num_kv_heads;
  const int64_t cast = dims.compute_dtype == at::kFloat ? 0 : s * dims.hidden_size;
  const int64_t ours = cast + s * (query + dims.qkv.out());
  if (dims.compute_dtype == at::kFloat) {
    // Keys, values and their gradients once per query head; sums of gradients one after the other.
    const int64_t copies = shares_keys ? s * (2 * query + kv) : 0;
    const int64_t lse = kFloatBytes * heads;
    return pass.num_tokens * (ours + s * 3 * query + copies + 2 * lse);
  }
  // Deterministic flash attention: sums of dq in fp32, as many as it takes to fill the processors,
  // and rows of padding behind every sequence; a number for every row and head; dk and dv once per
  // query head. 132: the processors of an H100 or H200.
  constexpr int64_t kProcessors = 132, kPaddingRows = 128, kDimMultiple = 32;
  const int64_t rows = pass.num_tokens + kPaddingRows * pass.num_sequences;
  const int64_t splits = ceil_div(kProcessors, pass.num_sequences * heads);
  const int64_t sums = splits * heads * round_up(dims.attention.head_dim, kDimMultiple);
  return pass.num_tokens * (ours + s * dims.qkv.out() + (shares_keys ? s * 2 * query : 0)) +
         kFloatBytes * rows * (sums + heads);
}

}  // namespace vax::model
