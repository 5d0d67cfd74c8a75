// Low-rank adapters of the linear layers of a block: which layers have one, and how their tensors
// are named in PEFT files.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/weights.h"

namespace vax::model {

struct LoraSpec {
  int64_t r = 0;  // 0: no adapter
  double alpha = 0;
  std::array<bool, kNumProjections> targets{};

  bool enabled() const { return r > 0; }
  double scale() const { return r > 0 ? alpha / static_cast<double>(r) : 0; }
};

// "q_proj", ..., and its place in a block: "self_attn.q_proj", ..., "mlp.down_proj".
std::string_view projection_name(Projection projection);
std::string projection_path(Projection projection);

// Target names as in PEFT; empty = all seven. THROWS ConfigError for a name that no layer has.
LoraSpec make_lora_spec(int64_t r, double alpha, const std::vector<std::string>& targets);
std::vector<std::string> target_names(const LoraSpec& spec);

// "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"
std::string lora_parameter_name(int layer, Projection projection, bool is_a);

}  // namespace vax::model
