// Options [runtime]: the machine that a process runs on.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/option.h"
#include "train/train_options.h"

namespace vax {

enum class DeviceChoice { kAuto, kCpu, kCuda };
constexpr auto words_of(DeviceChoice) {
  return std::to_array<std::string_view>({"auto", "cpu", "cuda"});
}

enum class Progress { kThread, kPoll };
constexpr auto words_of(Progress) { return std::to_array<std::string_view>({"thread", "poll"}); }

struct RuntimeOptions {
  VAX_SECTION(RuntimeOptions, .name = "runtime", .users = kWeightUsers,
              .on_resume = OnResume::kSameNumbers);
  VAX_OPTION(std::optional<int64_t>, threads, {}, "of a rank; by cores: cores / ranks of the node",
             .legal = at_least(1), .unset = "by cores");
  VAX_OPTION(DeviceChoice, device, DeviceChoice::kAuto, "where tensors live",
             .users = kWeightUsers | kPlan);
  VAX_OPTION(Progress, progress, Progress::kThread, "who moves messages on during compute");
  VAX_OPTION(Graphs, graphs, Graphs::kAuto, "capture and replay passes (GPU)", .users = kTraining);
  VAX_OPTION(double, timeout_s, 600, "longest wait for other ranks; 0: for ever",
             .legal = at_least(0));
};

}  // namespace vax
