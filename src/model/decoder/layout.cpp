#include "model/decoder/layout.h"

#include <span>

#include "base/error.h"
#include "model/decoder/norm.h"

namespace vax::model {
namespace {

struct Extent {
  int64_t in;
  int64_t out;
};

Extent extent_of(const Spec& spec, Projection projection) {
  const int64_t query = spec.num_heads * spec.head_dim, kv = spec.num_kv_heads * spec.head_dim;
  switch (projection) {
    case kQ:
      return {spec.hidden_size, query};
    case kK:
    case kV:
      return {spec.hidden_size, kv};
    case kO:
      return {query, spec.hidden_size};
    case kGate:
    case kUp:
      return {spec.hidden_size, spec.intermediate_size};
    default:
      return {spec.intermediate_size, spec.hidden_size};
  }
}

FlatMember matrix(std::string name, int64_t rows, int64_t columns) {
  return {.name = std::move(name), .shape = {rows, columns}};
}

// Biases and norm weights: not decayed.
FlatMember vector(std::string name, int64_t extent) {
  return {.name = std::move(name), .shape = {extent}, .decay = false};
}

// "model.layers.3.self_attn.q_proj"
std::string module_name(const Spec& spec, int64_t layer, const std::string& module) {
  return cat(spec.names.blocks, ".", layer, ".", module);
}

void add_norm(FlatUnit& unit, const Spec& spec, NormRoles roles, const std::string& module) {
  unit.add_group(roles.weight, {vector(module + ".weight", spec.hidden_size)});
  if (spec.norm == NormKind::kLayer)
    unit.add_group(roles.bias, {vector(module + ".bias", spec.hidden_size)});
}

// The groups of one block, added in order.
class BlockUnit {
 public:
  BlockUnit(const Spec& spec, int64_t layer)
      : spec_(spec), layer_(layer), unit_{.name = cat("layers.", layer)} {}

  void add_norm(NormRoles roles, const std::string& module) {
    vax::model::add_norm(unit_, spec_, roles, module_name(spec_, layer_, module));
  }
  // Layers that are one matrix for one GEMM.
  void add_weights(Role role, std::span<const Projection> layers) {
    std::vector<FlatMember> members;
    for (const Projection p : layers) {
      const Extent extent = extent_of(spec_, p);
      members.push_back(matrix(name(spec_.names.linears[p], ".weight"), extent.out, extent.in));
    }
    unit_.add_group(role, std::move(members));
  }
  void add_biases(Role role, std::span<const Projection> layers, bool present) {
    if (!present) return;
    std::vector<FlatMember> members;
    for (const Projection p : layers)
      members.push_back(vector(name(spec_.names.linears[p], ".bias"), extent_of(spec_, p).out));
    unit_.add_group(role, std::move(members));
  }
  FlatUnit take() { return std::move(unit_); }

 private:
  std::string name(const std::string& module, const char* suffix) const {
    return module_name(spec_, layer_, module) + suffix;
  }

  const Spec& spec_;
  int64_t layer_;
  FlatUnit unit_;
};

FlatUnit block_unit(const Spec& spec, int64_t layer) {
  constexpr std::array kQkvLayers = {kQ, kK, kV};
  constexpr std::array kUpLayers = {kGate, kUp};
  const auto up = std::span(kUpLayers).subspan(spec.has_gate() ? 0 : 1);
  BlockUnit unit(spec, layer);
  unit.add_norm(kAttentionNormRoles, spec.names.attention_norm);
  unit.add_weights(kQkv, kQkvLayers);
  unit.add_weights(kAttnOut, std::array{kO});
  unit.add_biases(kQkvBias, kQkvLayers, spec.biases.qkv);
  unit.add_biases(kAttnOutBias, std::array{kO}, spec.biases.attention_out);
  unit.add_norm(kMlpNormRoles, spec.names.mlp_norm);
  unit.add_weights(kGateUp, up);
  unit.add_weights(kMlpDown, std::array{kDown});
  unit.add_biases(kGateUpBias, up, spec.biases.up);
  unit.add_biases(kMlpDownBias, std::array{kDown}, spec.biases.down);
  return unit.take();
}

}  // namespace

FlatLayout base_layout(const Spec& spec) {
  FlatLayout layout;
  FlatUnit embedding{.name = "embedding"};
  embedding.add_group(
      kEmbedding, {matrix(spec.names.embedding + ".weight", spec.vocab_size, spec.hidden_size)});
  layout.push_back(std::move(embedding));
  for (int64_t layer = 0; layer < spec.num_layers; ++layer)
    layout.push_back(block_unit(spec, layer));
  FlatUnit head{.name = "head"};
  add_norm(head, spec, kFinalNormRoles, spec.names.final_norm);
  if (!spec.tied_head)
    head.add_group(kHead, {matrix(spec.names.head + ".weight", spec.vocab_size, spec.hidden_size)});
  layout.push_back(std::move(head));
  return layout;
}

FlatLayout lora_layout(const Spec& spec, const LoraSpec& lora) {
  FlatLayout layout;
  layout.push_back({.name = "embedding"});
  for (int64_t layer = 0; layer < spec.num_layers; ++layer) {
    FlatUnit unit{.name = cat("layers.", layer, " (LoRA)")};
    for (int p = 0; lora.enabled() && p < kNumProjections; ++p) {
      const auto projection = static_cast<Projection>(p);
      if (!lora.targets[static_cast<size_t>(p)]) continue;
      const Extent extent = extent_of(spec, projection);
      // PEFT's names.
      const std::string module =
          cat("base_model.model.",
              module_name(spec, layer, spec.names.linears[static_cast<size_t>(p)]));
      unit.add_group(lora_a_role(projection),
                     {matrix(module + ".lora_A.weight", lora.r, extent.in)});
      unit.add_group(lora_b_role(projection),
                     {matrix(module + ".lora_B.weight", extent.out, lora.r)});
    }
    layout.push_back(std::move(unit));
  }
  layout.push_back({.name = "head"});
  return layout;
}

}  // namespace vax::model
