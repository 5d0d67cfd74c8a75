#include "model/decoder/decoder.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/error.h"
#include "base/narrow.h"
#include "model/decoder/adapted_linear.h"
#include "model/decoder/layout.h"
#include "ops/device/transfer.h"
#include "ops/embedding.h"
#include "ops/hidden_state.h"

namespace vax::model {

Decoder::Decoder(Spec spec, const LoraSpec& lora, bool train_base, at::ScalarType compute_dtype,
                 at::Device device)
    : spec_(std::move(spec)),
      device_(device),
      frozen_(vax::model::base_layout(spec_)),
      trainable_(lora_layout(spec_, lora)),
      dims_(spec_, lora, train_base, compute_dtype),
      head_(spec_, dims_),
      rotary_(rotary_table(spec_, device)) {
  VAX_CHECK(!(train_base && lora.enabled()), "full-parameter training has no adapter");
  if (train_base) std::swap(frozen_, trainable_);
}

void Decoder::use_fp8(bool keep) {
  VAX_CHECK(compute_dtype() == at::kBFloat16, "fp8 products of ", compute_dtype());
  for (const LinearLayer* layer : dims_.linears())
    if (!ops::fp8_supports(layer->in, layer->out()))
      throw ConfigError(
          cat("products in fp8: expected linear layers with sizes that are "
              "multiples of 16, found ",
              layer->in, " to ", layer->out()));
  fp8_ = std::make_unique<Fp8Weights>(keep);
}

int64_t Decoder::planned_fp8_bytes() const {
  int64_t of_block = 0;
  for (const LinearLayer* layer : dims_.linears())
    of_block += Fp8Weights::bytes_of(layer->out(), layer->in);
  return num_layers() * of_block;
}

BlockContext Decoder::make_context(const PlacedBatch& batch, int layer,
                                   const PassOptions& options) const {
  return {.dims = dims_,
          .layer = layer,
          .sequences = batch.sequences,
          .positions_T = borrowed(batch.positions, device_),
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
  head_.run(batch, x_TD, weights, gradients, options, loss_sum, &grad_TD);
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
  head_.run(placed, x_TD, weights, nullptr, options, loss_sum, nullptr);
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
  return head_.logits(x_TD.index_select(0, rows), weights);
}

at::Tensor Decoder::logits(const PackedBatch& batch, WeightSource& weights) const {
  check_batch(batch, spec_);
  return head_.logits(run_forward(PlacedBatch(batch, device_), weights, {}, {}), weights);
}

std::vector<int> Decoder::unit_uses(bool with_backward) const {
  std::vector<int> uses;
  for (int unit = 0; unit < head_unit(); ++unit) uses.push_back(unit);
  for (const int unit : head_.unit_uses()) uses.push_back(unit);
  if (with_backward)
    for (int unit = num_layers(); unit > 0; --unit) uses.push_back(unit);
  return uses;
}

std::vector<int> Decoder::gradient_uses() const {
  std::vector<int> uses = head_.gradient_uses();
  for (int unit = num_layers(); unit > 0; --unit) uses.push_back(unit);
  if (train_base()) uses.push_back(0);
  return uses;
}

std::optional<HeldUnits> Decoder::held_together() const {
  if (!spec_.tied_head) return std::nullopt;
  return HeldUnits{.outer = head_unit(), .inner = 0};
}

// Where the most is held: at the head, or in the backward of the last block, when everything that
// was saved is still there. Scratch that operators keep inside a call is in it where it grows with
// the tokens: attention on a device. (Elsewhere it is a few MiB a thread.)
int64_t Decoder::activation_bytes(const PassShape& pass) const {
  constexpr int64_t kFloatBytes = sizeof(float);
  const HalfBytes attention = attention_bytes(dims_, pass.weight_gradients);
  const HalfBytes mlp = mlp_bytes(dims_, pass.weight_gradients);
  const int64_t tokens = pass.num_tokens;
  const int64_t stream = kFloatBytes * dims_.hidden_size * tokens;  // x, h, or its gradient
  const int64_t saved = 2 * stream + tokens * (attention.saved + mlp.saved);  // by a block
  const int64_t forward = tokens * std::max(attention.forward, mlp.forward);
  // The largest product of a block is the up matrix's.
  int64_t backward = tokens * std::max(attention.backward, mlp.backward) +
                     weight_product_bytes(dims_, pass, dims_.up.out(), dims_.up.in);
  if (pass.on_device) backward = std::max(backward, attention_device_bytes(dims_, pass));
  const int64_t head = head_.num_bytes(dims_, pass);
  // The block that is run again: its x is one of those kept. Running it needs less than its
  // backward.
  if (pass.recompute)
    return num_layers() * stream + stream + std::max(head, saved - stream + backward);
  return num_layers() * saved + std::max(forward, stream + std::max(head, backward));
}

std::unique_ptr<Model> make_model(const Spec& spec, const LoraSpec& lora, bool train_base,
                                  at::ScalarType compute_dtype, at::Device device) {
  return std::make_unique<Decoder>(spec, lora, train_base, compute_dtype, device);
}

}  // namespace vax::model
