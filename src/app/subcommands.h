// The program's subcommands. An option says by a set of these bits who uses it, so a new subcommand
// is one line here plus its bit in the rows of app/option_table.cpp.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

namespace vax::app {

using SubcommandSet = unsigned;

inline constexpr SubcommandSet kInit = 1U << 0;
inline constexpr SubcommandSet kAlign = 1U << 1;
inline constexpr SubcommandSet kFinetune = 1U << 2;
inline constexpr SubcommandSet kEval = 1U << 3;
inline constexpr SubcommandSet kDrift = 1U << 4;
inline constexpr SubcommandSet kGenerate = 1U << 5;
inline constexpr SubcommandSet kTokenize = 1U << 6;
inline constexpr SubcommandSet kExport = 1U << 7;
inline constexpr SubcommandSet kPlan = 1U << 8;
inline constexpr SubcommandSet kRebuild = 1U << 9;
inline constexpr SubcommandSet kTraining = kAlign | kFinetune;

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

}  // namespace vax::app
