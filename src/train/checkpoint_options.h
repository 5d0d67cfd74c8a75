// Options [checkpoint]: what is kept to go on from, and when a run stops.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/choice.h"

namespace vax {

enum class StopSignal { kUsr1, kUsr2, kTerm, kInt, kHup };
constexpr auto words_of(StopSignal) {
  return std::to_array<std::string_view>({"USR1", "USR2", "TERM", "INT", "HUP"});
}

struct CheckpointOptions {
  int64_t interval = 0;         // steps; 0 = only on request
  int64_t keep = 2;             // newest ones that pruning leaves, at least 2
  std::string resume = "none";  // auto | none | PATH of a step-NNNNNN directory
  // The trainable weights alone; false: the frozen ones too. true for lora, all are trained else.
  std::optional<bool> adapter_only;
  std::string path;  // what `vaccine export` reads; empty: model.path alone
  // That ask for a checkpoint and a stop.
  std::vector<StopSignal> signals = {StopSignal::kUsr1, StopSignal::kTerm};
  double stop_limit_s = 300;  // from such a signal on; then the process ends itself
};

}  // namespace vax
