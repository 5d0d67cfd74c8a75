// Options [train]: what a step does and how many there are.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/choice.h"

namespace vax {

enum class Schedule { kCosine, kLinear, kConstant };  // of the learning rate, after warm-up
constexpr auto words_of(Schedule) {
  return std::to_array<std::string_view>({"cosine", "linear", "constant"});
}

// What is computed again in a backward pass instead of kept; kPass2: in that of the pass that makes
// gradients alone.
enum class Recompute { kNone, kPass2, kAll };
constexpr auto words_of(Recompute) {
  return std::to_array<std::string_view>({"none", "pass2", "all"});
}

// Whether passes are captured and replayed on a GPU.
enum class Graphs { kAuto, kOn, kOff };
constexpr auto words_of(Graphs) { return std::to_array<std::string_view>({"auto", "on", "off"}); }

struct TrainOptions {
  std::string method;  // "sft" | "vaccine"; "" = vaccine for align, sft for finetune
  int64_t global_batch = 5;
  std::optional<int64_t> micro_batch;  // rows; the rank's whole share
  std::optional<double> epochs;        // 50 when max_steps is not given either
  std::optional<int64_t> max_steps;
  double lr = 1e-3;
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  Schedule schedule = Schedule::kCosine;
  double warmup_ratio = 0.1;
  double clip = 1.0;  // largest L2 norm of the gradient; 0 = no clipping
  Recompute recompute = Recompute::kNone;
  uint64_t seed = 42;
};

}  // namespace vax
