#include "model/decoder/decoder.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.h"
#include "base/narrow.h"
#include "model/decoder/activation_memory.h"
#include "model/decoder/layout.h"
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

Decoder::Decoder(Spec spec, const LoraSpec& lora, bool train_base, at::ScalarType compute_dtype,
                 at::Device device)
    : spec_(std::move(spec)),
      device_(device),
      frozen_(vax::model::base_layout(spec_)),
      trainable_(lora_layout(spec_, lora)),
      dims_{.hidden_size = spec_.hidden_size,
            .intermediate_size = spec_.intermediate_size,
            .attention = {.num_heads = spec_.num_heads,
                          .num_kv_heads = spec_.num_kv_heads,
                          .head_dim = spec_.head_dim,
                          .scale = 1 / std::sqrt(static_cast<double>(spec_.head_dim))},
            .norm_eps = spec_.norm_eps,
            .compute_dtype = compute_dtype,
            .lora = lora,
            .train_base = train_base},
      rotary_(rotary_table(spec_, device)) {
  VAX_CHECK(!(train_base && lora.enabled()), "full-parameter training has no adapter");
  if (train_base) std::swap(frozen_, trainable_);
}

std::array<Decoder::LinearSize, 4> Decoder::linear_sizes() const {
  const int64_t hidden = spec_.hidden_size, ffn = spec_.intermediate_size;
  return {LinearSize{hidden, dims_.qkv_width()},
          {dims_.query_width(), hidden},
          {hidden, 2 * ffn},
          {ffn, hidden}};
}

void Decoder::use_fp8(bool keep) {
  VAX_CHECK(dims_.compute_dtype == at::kBFloat16, "fp8 products of ", dims_.compute_dtype);
  for (const auto& [in, out] : linear_sizes())
    if (!ops::fp8_supports(in, out))
      throw ConfigError(
          cat("vaccine.probe_dtype fp8: expected linear layers with sizes that are "
              "multiples of 16, found ",
              in, " to ", out));
  fp8_ = std::make_unique<Fp8Weights>(keep);
}

int64_t Decoder::planned_fp8_bytes() const {
  int64_t of_block = 0;
  for (const auto& [in, out] : linear_sizes()) of_block += Fp8Weights::bytes_of(out, in);
  return num_layers() * of_block;
}

BlockContext Decoder::make_context(const PlacedBatch& batch, int layer,
                                   const PassOptions& options) const {
  return {.dims = dims_,
          .layer = layer,
          .sequences = batch.sequences,
          .positions_T = borrow(batch.positions, device_),
          .cos_PK = rotary_.cos_PK,
          .sin_PK = rotary_.sin_PK,
          .dropout = {.p = options.dropout,
                      .seed = options.seed,
                      .stream = options.dropout_stream,
                      .rows = batch.rows,
                      .positions = batch.positions,
                      .device_key = options.dropout_key},
          .fp8 = fp8_.get()};
}

at::Tensor Decoder::embed(const PlacedBatch& batch, WeightSource& weights) const {
  const HeldWeights held(weights, 0);
  at::Tensor x_TD = at::empty({batch.num_tokens(), spec_.hidden_size},
                              at::TensorOptions(at::kFloat).device(device_));
  ops::embedding_forward(batch.ids, held[kEmbedding], x_TD);
  return x_TD;
}

at::Tensor Decoder::run_attention_half(const at::Tensor& x_TD, const HeldWeights& weights,
                                       const BlockContext& context, const PassOptions& options,
                                       AttentionSaved& saved) const {
  const at::Tensor e_TD = attention_forward(context, weights.all(), x_TD, saved);
  at::Tensor h_TD = at::empty_like(x_TD);
  ops::residual_add(x_TD, e_TD, h_TD);
  if (options.forward_boundary) options.forward_boundary(context.layer, e_TD, h_TD);
  return h_TD;
}

at::Tensor Decoder::run_block(at::Tensor x_TD, const HeldWeights& weights,
                              const BlockContext& context, const PassOptions& options,
                              BlockSaved* saved) const {
  BlockSaved unused;
  BlockSaved& block = saved != nullptr ? *saved : unused;
  at::Tensor h_TD = run_attention_half(x_TD, weights, context, options, block.attention);
  const at::Tensor y_TD = mlp_forward(context, weights.all(), h_TD, block.mlp);
  at::Tensor out_TD = saved != nullptr ? at::empty_like(h_TD) : h_TD;
  ops::residual_add(h_TD, y_TD, out_TD);
  block.x_TD = std::move(x_TD);
  block.h_TD = std::move(h_TD);
  return out_TD;
}

at::Tensor Decoder::run_forward(const PlacedBatch& batch, WeightSource& weights,
                                const PassOptions& options, std::span<BlockSaved> saved,
                                const Decoding* decoding) const {
  at::Tensor x_TD = embed(batch, weights);
  for (int layer = 0; layer < num_layers(); ++layer) {
    const HeldWeights held(weights, layer + 1);
    if (batch.empty()) continue;
    const auto l = static_cast<size_t>(layer);
    BlockContext context = make_context(batch, layer, options);
    if (decoding != nullptr) {
      context.cache = &decoding->layers[l];
      context.places = &decoding->places;
    }
    BlockSaved* const block = saved.empty() ? nullptr : &saved[l];
    const at::Tensor input_TD = block != nullptr ? x_TD : at::Tensor();
    x_TD = run_block(std::move(x_TD), held, context, options, options.recompute ? nullptr : block);
    if (block != nullptr && options.recompute) block->x_TD = input_TD;
  }
  return x_TD;
}

void Decoder::run_head(const PlacedBatch& batch, const at::Tensor& x_TD, WeightSource& weights,
                       GradientSink* gradients, const PassOptions& options, at::Tensor& loss_sum,
                       at::Tensor* grad_TD) const {
  const HeldWeights head(weights, head_unit());
  std::optional<HeldWeights> tied;
  if (spec_.tied_head) tied.emplace(weights, 0);
  const at::Tensor& w_VD = tied ? (*tied)[kEmbedding] : head[kHead];

  const at::Tensor label_rows = borrow(batch.label_positions, device_);
  const at::Tensor loss_scale =
      options.loss_scale.defined() ? options.loss_scale : at::ones({}, loss_sum.options());
  const at::Tensor x_ND = x_TD.index_select(0, label_rows);
  at::Tensor normed_ND = at::empty(x_ND.sizes(), x_ND.options().dtype(dims_.compute_dtype));
  at::Tensor rstd_N = at::empty({x_ND.size(0)}, x_ND.options());
  ops::rms_norm_forward(x_ND, head[kFinalNorm], spec_.norm_eps, normed_ND, rstd_N);

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

void Decoder::backward_blocks(const PlacedBatch& batch, WeightSource& weights,
                              GradientSink* gradients, const PassOptions& options,
                              std::span<BlockSaved> saved, at::Tensor& grad_TD) const {
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
      block.h_TD = run_attention_half(block.x_TD, held, context, options, block.attention);
      mlp_recompute(context, held.all(), block.h_TD, gradients != nullptr, block.mlp);
    }
    mlp_backward(context, held.all(), sink.get(), block.h_TD, block.mlp, grad_TD);
    if (options.backward_boundary) options.backward_boundary(layer, grad_TD);
    if (layer == 0 && options.stop_at_first_boundary) return;
    const bool need_input_gradient = layer > 0 || train_base();
    attention_backward(context, held.all(), sink.get(), block.x_TD, block.attention,
                       need_input_gradient, grad_TD);
    block = {};
  }
}

void Decoder::forward_backward(const PlacedBatch& batch, WeightSource& weights,
                               GradientSink* gradients, const PassOptions& options,
                               at::Tensor& loss_sum) const {
  std::vector<BlockSaved> saved(static_cast<size_t>(num_layers()));
  at::Tensor x_TD = run_forward(batch, weights, options, saved);
  at::Tensor grad_TD;
  run_head(batch, x_TD, weights, gradients, options, loss_sum, &grad_TD);
  x_TD.reset();
  backward_blocks(batch, weights, gradients, options, saved, grad_TD);
  if (train_base() && gradients != nullptr) {
    const HeldGradients sink(gradients, 0);
    at::Tensor dw_VD = sink.of(kEmbedding);
    ops::embedding_backward(grad_TD, batch.ids, dw_VD, sink.accumulate());
  }
}

double Decoder::forward(const PackedBatch& batch, WeightSource& weights,
                        const PassOptions& options) const {
  check_batch(batch, spec_);
  const PlacedBatch placed(batch, device_);
  const at::Tensor x_TD = run_forward(placed, weights, options, {});
  at::Tensor loss_sum = at::zeros({}, at::TensorOptions(at::kDouble).device(device_));
  run_head(placed, x_TD, weights, nullptr, options, loss_sum, nullptr);
  return ops::device::to_number(loss_sum);
}

namespace {

struct KeyValueCache : DecodeCache {
  std::vector<KeyValues> layers;
};

}  // namespace

std::unique_ptr<DecodeCache> Decoder::make_cache(int64_t num_slots, int64_t capacity) const {
  const at::TensorOptions options = at::TensorOptions(compute_dtype()).device(device_);
  const std::vector<int64_t> shape = {num_slots, capacity, spec_.num_kv_heads, spec_.head_dim};
  auto cache = std::make_unique<KeyValueCache>();
  for (int layer = 0; layer < num_layers(); ++layer)
    cache->layers.push_back({.k = at::empty(shape, options), .v = at::empty(shape, options)});
  return cache;
}

at::Tensor Decoder::decode(const PackedBatch& batch, std::span<const int32_t> slots,
                           DecodeCache& cache, WeightSource& weights) const {
  VAX_CHECK(std::ssize(slots) == batch.num_sequences(), slots.size(), " slots for ",
            batch.num_sequences(), " sequences");
  check_batch(batch, spec_);
  const PlacedBatch placed(batch, device_);
  const CachePlaces places = places_of(batch, slots, device_);
  const Decoding decoding{.layers = dynamic_cast<KeyValueCache&>(cache).layers, .places = places};
  const at::Tensor x_TD = run_forward(placed, weights, {}, {}, &decoding);
  std::vector<int64_t> last_tokens;
  for (size_t s = 1; s < batch.offsets.size(); ++s) last_tokens.push_back(batch.offsets[s] - 1);
  const at::Tensor rows = ops::device::to_device(at::tensor(last_tokens, at::kLong), device_);
  return head_logits(x_TD.index_select(0, rows), weights);
}

at::Tensor Decoder::logits(const PackedBatch& batch, WeightSource& weights) const {
  check_batch(batch, spec_);
  return head_logits(run_forward(PlacedBatch(batch, device_), weights, {}, {}), weights);
}

std::vector<int> Decoder::unit_uses(bool with_backward) const {
  std::vector<int> uses;
  for (int unit = 0; unit < num_units(); ++unit) uses.push_back(unit);
  if (spec_.tied_head) uses.push_back(0);
  if (with_backward)
    for (int unit = num_layers(); unit > 0; --unit) uses.push_back(unit);
  return uses;
}

std::vector<int> Decoder::gradient_uses() const {
  std::vector<int> uses;
  if (spec_.tied_head) uses.push_back(0);
  for (int unit = head_unit(); unit > 0; --unit) uses.push_back(unit);
  if (train_base()) uses.push_back(0);
  return uses;
}

std::optional<HeldUnits> Decoder::held_together() const {
  if (!spec_.tied_head) return std::nullopt;
  return HeldUnits{.outer = head_unit(), .inner = 0};
}

int64_t Decoder::activation_bytes(const PassShape& pass) const {
  return vax::model::activation_bytes(spec_, dims_, pass);
}

at::Tensor Decoder::head_logits(const at::Tensor& x_ND, WeightSource& weights) const {
  const HeldWeights head(weights, head_unit());
  std::optional<HeldWeights> tied;
  if (spec_.tied_head) tied.emplace(weights, 0);
  at::Tensor normed_ND = at::empty(x_ND.sizes(), x_ND.options().dtype(dims_.compute_dtype));
  at::Tensor rstd_N = at::empty({x_ND.size(0)}, x_ND.options());
  ops::rms_norm_forward(x_ND, head[kFinalNorm], spec_.norm_eps, normed_ND, rstd_N);
  at::Tensor z_NV = at::empty({x_ND.size(0), spec_.vocab_size}, normed_ND.options());
  ops::linear_forward(normed_ND, tied ? (*tied)[kEmbedding] : head[kHead], at::Tensor(), z_NV);
  return z_NV.to(at::kFloat);
}

std::unique_ptr<Model> make_model(const Spec& spec, const LoraSpec& lora, bool train_base,
                                  at::ScalarType compute_dtype, at::Device device) {
  return std::make_unique<Decoder>(spec, lora, train_base, compute_dtype, device);
}

}  // namespace vax::model
