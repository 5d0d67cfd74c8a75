// Options [runtime]: the machine that a process runs on.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/choice.h"
#include "train/train_options.h"

namespace vax {

enum class DeviceChoice { kAuto, kCpu, kCuda };
constexpr auto words_of(DeviceChoice) {
  return std::to_array<std::string_view>({"auto", "cpu", "cuda"});
}

enum class Progress { kThread, kPoll };  // who drives MPI while a rank computes
constexpr auto words_of(Progress) { return std::to_array<std::string_view>({"thread", "poll"}); }

struct RuntimeOptions {
  std::optional<int64_t> threads;  // per rank; cores / local ranks
  DeviceChoice device = DeviceChoice::kAuto;
  Progress progress = Progress::kThread;
  double timeout_s = 600;  // of one wait for other ranks; 0 = for ever
  Graphs graphs = Graphs::kAuto;
};

}  // namespace vax
