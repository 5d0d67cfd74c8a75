#include "model/llama_layout.h"

#include "base/error.h"

namespace vax::model {
namespace {

FlatMember matrix(std::string name, int64_t rows, int64_t columns) {
  return {.name = std::move(name), .shape = {rows, columns}};
}

// Biases and norm weights: not decayed.
FlatMember vector(std::string name, int64_t extent) {
  return {.name = std::move(name), .shape = {extent}, .decay = false};
}

FlatUnit block_unit(const LlamaConfig& c, int64_t layer) {
  FlatUnit unit{.name = cat("layers.", layer)};
  const std::string prefix = cat("model.layers.", layer, ".");
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  const int64_t query = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  unit.add_group(kInputNorm, {vector(prefix + "input_layernorm.weight", c.hidden_size)});
  unit.add_group(kQkv, {matrix(attention + "q_proj.weight", query, c.hidden_size),
                        matrix(attention + "k_proj.weight", kv, c.hidden_size),
                        matrix(attention + "v_proj.weight", kv, c.hidden_size)});
  unit.add_group(kAttnOut, {matrix(attention + "o_proj.weight", c.hidden_size, query)});
  if (c.attention_bias) {
    unit.add_group(kQkvBias,
                   {vector(attention + "q_proj.bias", query), vector(attention + "k_proj.bias", kv),
                    vector(attention + "v_proj.bias", kv)});
    unit.add_group(kAttnOutBias, {vector(attention + "o_proj.bias", c.hidden_size)});
  }
  unit.add_group(kPostNorm, {vector(prefix + "post_attention_layernorm.weight", c.hidden_size)});
  unit.add_group(kGateUp, {matrix(mlp + "gate_proj.weight", c.intermediate_size, c.hidden_size),
                           matrix(mlp + "up_proj.weight", c.intermediate_size, c.hidden_size)});
  unit.add_group(kMlpDown, {matrix(mlp + "down_proj.weight", c.hidden_size, c.intermediate_size)});
  if (c.mlp_bias) {
    unit.add_group(kGateUpBias, {vector(mlp + "gate_proj.bias", c.intermediate_size),
                                 vector(mlp + "up_proj.bias", c.intermediate_size)});
    unit.add_group(kMlpDownBias, {vector(mlp + "down_proj.bias", c.hidden_size)});
  }
  return unit;
}

struct Extent {
  int64_t in;
  int64_t out;
};

Extent projection_extent(const LlamaConfig& c, Projection projection) {
  const int64_t query = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  switch (projection) {
    case kQ:
      return {c.hidden_size, query};
    case kK:
    case kV:
      return {c.hidden_size, kv};
    case kO:
      return {query, c.hidden_size};
    case kGate:
    case kUp:
      return {c.hidden_size, c.intermediate_size};
    default:
      return {c.intermediate_size, c.hidden_size};
  }
}

}  // namespace

FlatLayout base_layout(const LlamaConfig& config) {
  FlatLayout layout;
  FlatUnit embedding{.name = "embedding"};
  embedding.add_group(kEmbedding,
                      {matrix("model.embed_tokens.weight", config.vocab_size, config.hidden_size)});
  layout.push_back(std::move(embedding));
  for (int64_t layer = 0; layer < config.num_layers; ++layer)
    layout.push_back(block_unit(config, layer));
  FlatUnit head{.name = "head"};
  head.add_group(kFinalNorm, {vector("model.norm.weight", config.hidden_size)});
  if (!config.tie_word_embeddings)
    head.add_group(kHead, {matrix("lm_head.weight", config.vocab_size, config.hidden_size)});
  layout.push_back(std::move(head));
  return layout;
}

FlatLayout lora_layout(const LlamaConfig& config, const LoraSpec& lora) {
  FlatLayout layout;
  layout.push_back({.name = "embedding"});
  for (int layer = 0; layer < config.num_layers; ++layer) {
    FlatUnit unit{.name = cat("layers.", layer, " (LoRA)")};
    for (int p = 0; lora.enabled() && p < kNumProjections; ++p) {
      const auto projection = static_cast<Projection>(p);
      if (!lora.targets[static_cast<size_t>(p)]) continue;
      const Extent extent = projection_extent(config, projection);
      unit.add_group(lora_a_role(projection),
                     {matrix(lora_parameter_name(layer, projection, true), lora.r, extent.in)});
      unit.add_group(lora_b_role(projection),
                     {matrix(lora_parameter_name(layer, projection, false), extent.out, lora.r)});
    }
    layout.push_back(std::move(unit));
  }
  layout.push_back({.name = "head"});
  return layout;
}

}  // namespace vax::model
