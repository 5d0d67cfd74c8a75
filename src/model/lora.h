// Low-rank adapters of the linear layers of a block: which layers have one, under the names that
// the family gives them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "model/spec.h"
#include "model/weights.h"

namespace vax::model {

struct LoraSpec {
  int64_t r = 0;  // 0: no adapter
  double alpha = 0;
  std::array<bool, kNumProjections> targets{};

  bool enabled() const { return r > 0; }
  double scale() const { return r > 0 ? alpha / static_cast<double>(r) : 0; }
};

// Target names as in PEFT, the last part of a linear layer's name ("q_proj"); empty = all of them.
// THROWS ConfigError for a name that no layer has.
LoraSpec make_lora_spec(const Spec& spec, int64_t r, double alpha,
                        const std::vector<std::string>& targets);
std::vector<std::string> target_names(const Spec& spec, const LoraSpec& lora);

}  // namespace vax::model
