// The program's subcommands by name. A new one is one line here plus its bit in
// base/subcommand_set.h.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"
#include "base/subcommand_set.h"

namespace vax::app {

struct Subcommand {
  std::string_view name;
  SubcommandSet bit;
  std::string_view summary;
};

inline constexpr std::array kSubcommands = {
    Subcommand{"init", kInit, "write a Hugging Face Llama directory with random weights"},
    Subcommand{"align", kAlign, "train the model to answer safely (stage 1; Vaccine by default)"},
    Subcommand{"finetune", kFinetune, "train on a user's data, harmful rows mixed in (stage 2)"},
    Subcommand{"plan", kPlan, "memory, traffic and gathers of a training run, before it starts"},
    Subcommand{"eval", kEval, "harmful score, task accuracy, alignment loss, over-refusal"},
    Subcommand{"drift", kDrift, "drift of the hidden states from one checkpoint to another"},
    Subcommand{"generate", kGenerate, "greedy answers to the instructions of a file"},
    Subcommand{"export", kExport, "the model with adapters merged, as a Hugging Face directory"},
    Subcommand{"rebuild", kRebuild, "run.h5 of a run's directory made anew from its run.jsonl"},
    Subcommand{"tokenize", kTokenize, "token ids of standard input, or samples as rendered"},
};

// nullptr when there is none of that name.
inline const Subcommand* find_subcommand(std::string_view name) {
  const auto* const found = std::ranges::find(kSubcommands, name, &Subcommand::name);
  return found == kSubcommands.end() ? nullptr : found;
}

// REQUIRES one of these names.
inline SubcommandSet bit_of(std::string_view subcommand) {
  const Subcommand* const found = find_subcommand(subcommand);
  VAX_CHECK(found != nullptr, "subcommand '", subcommand, "'");
  return found->bit;
}

}  // namespace vax::app
