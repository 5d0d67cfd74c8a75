// Options [checkpoint]: what is kept to go on from, and when a run stops.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/option.h"

namespace vax {

enum class StopSignal { kUsr1, kUsr2, kTerm, kInt, kHup };
constexpr auto words_of(StopSignal) {
  return std::to_array<std::string_view>({"USR1", "USR2", "TERM", "INT", "HUP"});
}
inline const std::vector<StopSignal> kStopSignals = {StopSignal::kUsr1, StopSignal::kTerm};

struct CheckpointOptions {
  VAX_SECTION(CheckpointOptions, .name = "checkpoint", .users = kTraining,
              .on_resume = OnResume::kSameNumbers);
  VAX_OPTION(int64_t, interval, 0, "steps between checkpoints; 0: on request",
             .legal = at_least(0));
  VAX_OPTION(int64_t, keep, 2, "newest checkpoints that stay", .legal = at_least(2));
  VAX_OPTION(std::string, resume, "none", "where to go on from",
             .legal = one_of_or({"auto", "none"}, "PATH"));
  // false: the frozen weights too; with adapter.type none all are trained.
  VAX_OPTION(std::optional<bool>, adapter_only, {}, "leave the frozen weights out",
             .unset = "for lora", .users = kTraining | kPlan);
  VAX_OPTION(std::string, path, {}, "step-NNNNNN directory whose weights are exported",
             .users = kExport);
  VAX_OPTION(std::vector<StopSignal>, signals, kStopSignals,
             "signals that ask for a checkpoint and a stop (list)", .legal = distinct(),
             .unset = "none");
  VAX_OPTION(double, stop_limit_s, 300, "time from such a signal to a forced end",
             .legal = above(0));
};

}  // namespace vax
