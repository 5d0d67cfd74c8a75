#include "model/lora.h"

#include <algorithm>

#include "base/error.h"

namespace vax::model {
namespace {

constexpr std::array<std::string_view, kNumProjections> kNames = {
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};

std::string all_names() {
  std::string list;
  for (const std::string_view name : kNames) list += cat(list.empty() ? "" : ", ", name);
  return list;
}

}  // namespace

std::string_view projection_name(Projection projection) { return kNames.at(projection); }

std::string projection_path(Projection projection) {
  return cat(projection < kGate ? "self_attn." : "mlp.", projection_name(projection));
}

LoraSpec make_lora_spec(int64_t r, double alpha, const std::vector<std::string>& targets) {
  LoraSpec spec{.r = r, .alpha = alpha};
  if (targets.empty()) spec.targets.fill(true);
  for (const std::string& target : targets) {
    const auto found = std::find(kNames.begin(), kNames.end(), target);
    if (found == kNames.end())
      throw ConfigError(cat("adapter.targets: no linear layer is called '", target,
                            "'; a Llama block has ", all_names()));
    spec.targets[static_cast<size_t>(found - kNames.begin())] = true;
  }
  return spec;
}

std::vector<std::string> target_names(const LoraSpec& spec) {
  std::vector<std::string> names;
  for (size_t p = 0; p < kNumProjections; ++p)
    if (spec.targets[p]) names.emplace_back(kNames[p]);
  return names;
}

std::string lora_parameter_name(int layer, Projection projection, bool is_a) {
  return cat("base_model.model.model.layers.", layer, ".", projection_path(projection),
             is_a ? ".lora_A.weight" : ".lora_B.weight");
}

}  // namespace vax::model
