#include "model/llama.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.h"
#include "base/narrow.h"
#include "model/llama_layout.h"
#include "ops/device/transfer.h"
#include "ops/embedding.h"
#include "ops/head_loss.h"
#include "ops/hidden_state.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"

namespace vax::model {
namespace {

at::Tensor borrow(std::span<const int64_t> values, at::Device device) {
  return at::from_blob(const_cast<int64_t*>(values.data()), {std::ssize(values)},
                       at::TensorOptions(at::kLong).device(device));
}

at::Tensor borrow(std::span<const int32_t> values, at::Device device) {
  return at::from_blob(const_cast<int32_t*>(values.data()), {std::ssize(values)},
                       at::TensorOptions(at::kInt).device(device));
}

}  // namespace

Llama::Llama(LlamaConfig config, LoraSpec lora, bool train_base, at::ScalarType compute_dtype,
             at::Device device)
    : config_(std::move(config)),
      lora_(lora),
      train_base_(train_base),
      compute_dtype_(compute_dtype),
      device_(device),
      frozen_(base_layout(config_)),
      trainable_(lora_layout(config_, lora_)) {
  VAX_CHECK(!(train_base && lora.enabled()), "full-parameter training has no adapter");
  if (train_base_) std::swap(frozen_, trainable_);
  dims_ = {.hidden_size = config_.hidden_size,
           .intermediate_size = config_.intermediate_size,
           .attention = {.num_heads = config_.num_heads,
                         .num_kv_heads = config_.num_kv_heads,
                         .head_dim = config_.head_dim,
                         .scale = 1 / std::sqrt(static_cast<double>(config_.head_dim))},
           .rms_norm_eps = config_.rms_norm_eps,
           .compute_dtype = compute_dtype_,
           .lora = lora_,
           .train_base = train_base_};
  const std::vector<float> frequencies = rotary_frequencies(config_);
  const at::Tensor angles_PK =
      at::arange(config_.max_position_embeddings, at::kFloat).unsqueeze(1) *
      at::tensor(frequencies, at::kFloat).unsqueeze(0);
  cos_PK_ = angles_PK.cos().to(device_);
  sin_PK_ = angles_PK.sin().to(device_);
}

std::array<Llama::LinearSize, 4> Llama::linear_sizes() const {
  const int64_t hidden = config_.hidden_size, ffn = config_.intermediate_size;
  return {LinearSize{hidden, dims_.qkv_width()},
          {dims_.query_width(), hidden},
          {hidden, 2 * ffn},
          {ffn, hidden}};
}

void Llama::use_fp8(bool keep) {
  VAX_CHECK(compute_dtype_ == at::kBFloat16, "fp8 products of ", compute_dtype_);
  for (const auto& [in, out] : linear_sizes())
    if (!ops::fp8_supports(in, out))
      throw ConfigError(
          cat("vaccine.probe_dtype fp8: expected linear layers with sizes that are "
              "multiples of 16, found ",
              in, " to ", out));
  fp8_ = std::make_unique<Fp8Weights>(keep);
}

int64_t Llama::planned_fp8_bytes() const {
  int64_t of_block = 0;
  for (const auto& [in, out] : linear_sizes()) of_block += Fp8Weights::bytes_of(out, in);
  return num_layers() * of_block;
}

BlockContext Llama::make_context(const BatchView& batch, int layer,
                                 const PassOptions& options) const {
  return {.dims = dims_,
          .layer = layer,
          .sequences = batch.sequences,
          .positions_T = borrow(batch.positions, device_),
          .cos_PK = cos_PK_,
          .sin_PK = sin_PK_,
          .dropout = {.p = options.dropout,
                      .seed = options.seed,
                      .stream = options.dropout_stream,
                      .rows = batch.rows,
                      .positions = batch.positions,
                      .device_key = options.dropout_key},
          .fp8 = fp8_.get()};
}

at::Tensor Llama::embed(const BatchView& batch, WeightSource& weights) const {
  const HeldWeights held(weights, 0);
  at::Tensor x_TD = at::empty({batch.num_tokens(), config_.hidden_size},
                              at::TensorOptions(at::kFloat).device(device_));
  ops::embedding_forward(batch.ids, held[kEmbedding], x_TD);
  return x_TD;
}

at::Tensor Llama::run_attention_half(int layer, const at::Tensor& x_TD, const HeldWeights& weights,
                                     const BlockContext& context, const PassOptions& options,
                                     AttentionSaved& saved) const {
  const at::Tensor e_TD = attention_forward(context, weights.all(), x_TD, saved);
  at::Tensor h_TD = at::empty_like(x_TD);
  ops::residual_add(x_TD, e_TD, h_TD);
  if (options.forward_boundary) options.forward_boundary(layer, e_TD, h_TD);
  return h_TD;
}

at::Tensor Llama::run_block(int layer, at::Tensor x_TD, const HeldWeights& weights,
                            const BlockContext& context, const PassOptions& options,
                            BlockSaved* saved) const {
  BlockSaved unused;
  BlockSaved& block = saved != nullptr ? *saved : unused;
  at::Tensor h_TD = run_attention_half(layer, x_TD, weights, context, options, block.attention);
  const at::Tensor y_TD = mlp_forward(context, weights.all(), h_TD, block.mlp);
  at::Tensor out_TD = saved != nullptr ? at::empty_like(h_TD) : h_TD;
  ops::residual_add(h_TD, y_TD, out_TD);
  block.x_TD = std::move(x_TD);
  block.h_TD = std::move(h_TD);
  return out_TD;
}

void Llama::run_head(const BatchView& batch, const at::Tensor& x_TD, WeightSource& weights,
                     GradientSink* gradients, const PassOptions& options, at::Tensor& loss_sum,
                     at::Tensor* grad_TD) const {
  const HeldWeights head(weights, head_unit());
  std::optional<HeldWeights> tied;
  if (config_.tie_word_embeddings) tied.emplace(weights, 0);
  const at::Tensor& w_VD = tied ? (*tied)[kEmbedding] : head[kHead];

  const at::Tensor label_rows = borrow(batch.label_positions, device_);
  const at::Tensor loss_scale =
      options.loss_scale.defined() ? options.loss_scale : at::ones({}, loss_sum.options());
  const at::Tensor x_ND = x_TD.index_select(0, label_rows);
  at::Tensor normed_ND = at::empty(x_ND.sizes(), x_ND.options().dtype(compute_dtype_));
  at::Tensor rstd_N = at::empty({x_ND.size(0)}, x_ND.options());
  ops::rms_norm_forward(x_ND, head[kFinalNorm], config_.rms_norm_eps, normed_ND, rstd_N);

  at::Tensor dnormed_ND, dw_VD, dnorm_D;
  if (grad_TD == nullptr)
    return ops::head_loss(normed_ND, w_VD, batch.targets, loss_scale, loss_sum, dnormed_ND, dw_VD);

  HeldGradients weight_gradients(gradients, tied ? 0 : head_unit());
  dnormed_ND = at::empty_like(normed_ND);
  dw_VD = weight_gradients.of(tied ? kEmbedding : kHead);
  ops::head_loss(normed_ND, w_VD, batch.targets, loss_scale, loss_sum, dnormed_ND, dw_VD,
                 weight_gradients.accumulate());
  std::optional<HeldGradients> norm_gradients;
  if (tied) {
    weight_gradients.release();
    norm_gradients.emplace(gradients, head_unit());
  }
  const HeldGradients& of_norm = tied ? *norm_gradients : weight_gradients;
  dnorm_D = of_norm.of(kFinalNorm);
  at::Tensor dx_ND = at::zeros_like(x_ND);
  ops::rms_norm_backward(dnormed_ND, x_ND, head[kFinalNorm], rstd_N, dx_ND, dnorm_D,
                         of_norm.accumulate());
  *grad_TD = at::zeros_like(x_TD).index_copy_(0, label_rows, dx_ND);
}

void Llama::backward_blocks(const BatchView& batch, WeightSource& weights, GradientSink* gradients,
                            const PassOptions& options, std::vector<BlockSaved>& saved,
                            at::Tensor& grad_TD) const {
  for (int layer = num_layers() - 1; layer >= 0; --layer) {
    const HeldWeights held(weights, layer + 1);
    HeldGradients sink(gradients, layer + 1);
    if (batch.empty()) {
      sink.write_nothing();
      continue;
    }
    const BlockContext context = make_context(batch, layer, options);
    BlockSaved& block = saved[static_cast<size_t>(layer)];
    if (options.recompute) {
      block.h_TD = run_attention_half(layer, block.x_TD, held, context, options, block.attention);
      mlp_recompute(context, held.all(), block.h_TD, gradients != nullptr, block.mlp);
    }
    mlp_backward(context, held.all(), sink.get(), block.h_TD, block.mlp, grad_TD);
    if (options.backward_boundary) options.backward_boundary(layer, grad_TD);
    if (layer == 0 && options.stop_at_first_boundary) return;
    const bool need_input_gradient = layer > 0 || train_base_;
    attention_backward(context, held.all(), sink.get(), block.x_TD, block.attention,
                       need_input_gradient, grad_TD);
    block = {};
  }
}

void Llama::forward_backward(const BatchView& batch, WeightSource& weights, GradientSink* gradients,
                             const PassOptions& options, at::Tensor& loss_sum) const {
  std::vector<BlockSaved> saved(static_cast<size_t>(num_layers()));
  at::Tensor x_TD = embed(batch, weights);
  for (int layer = 0; layer < num_layers(); ++layer) {
    const HeldWeights held(weights, layer + 1);
    if (batch.empty()) continue;
    BlockSaved& block = saved[static_cast<size_t>(layer)];
    const at::Tensor input_TD = x_TD;
    x_TD = run_block(layer, std::move(x_TD), held, make_context(batch, layer, options), options,
                     options.recompute ? nullptr : &block);
    if (options.recompute) block.x_TD = input_TD;
  }
  at::Tensor grad_TD;
  run_head(batch, x_TD, weights, gradients, options, loss_sum, &grad_TD);
  x_TD.reset();
  backward_blocks(batch, weights, gradients, options, saved, grad_TD);
  if (train_base_ && gradients != nullptr) {
    const HeldGradients sink(gradients, 0);
    at::Tensor dw_VD = sink.of(kEmbedding);
    ops::embedding_backward(grad_TD, batch.ids, dw_VD, sink.accumulate());
  }
}

double Llama::forward(const PackedBatch& batch, WeightSource& weights,
                      const PassOptions& options) const {
  check_batch(batch, config_);
  const PlacedBatch placed(batch, device_);
  const BatchView& view = placed.view();
  at::Tensor x_TD = embed(view, weights);
  for (int layer = 0; layer < num_layers(); ++layer) {
    const HeldWeights held(weights, layer + 1);
    if (batch.empty()) continue;
    x_TD = run_block(layer, std::move(x_TD), held, make_context(view, layer, options), options,
                     nullptr);
  }
  at::Tensor loss_sum = at::zeros({}, at::TensorOptions(at::kDouble).device(device_));
  run_head(view, x_TD, weights, nullptr, options, loss_sum, nullptr);
  return ops::device::to_number(loss_sum);
}

std::vector<int> Llama::unit_uses(bool with_backward) const {
  std::vector<int> uses;
  for (int unit = 0; unit < num_units(); ++unit) uses.push_back(unit);
  if (config_.tie_word_embeddings) uses.push_back(0);
  if (with_backward)
    for (int unit = num_layers(); unit > 0; --unit) uses.push_back(unit);
  return uses;
}

at::Tensor Llama::logits(const at::Tensor& x_ND, WeightSource& weights) const {
  const HeldWeights head(weights, head_unit());
  std::optional<HeldWeights> tied;
  if (config_.tie_word_embeddings) tied.emplace(weights, 0);
  at::Tensor normed_ND = at::empty(x_ND.sizes(), x_ND.options().dtype(compute_dtype_));
  at::Tensor rstd_N = at::empty({x_ND.size(0)}, x_ND.options());
  ops::rms_norm_forward(x_ND, head[kFinalNorm], config_.rms_norm_eps, normed_ND, rstd_N);
  at::Tensor z_NV = at::empty({x_ND.size(0), config_.vocab_size}, normed_ND.options());
  ops::linear_forward(normed_ND, tied ? (*tied)[kEmbedding] : head[kHead], at::Tensor(), z_NV);
  return z_NV.to(at::kFloat);
}

}  // namespace vax::model
