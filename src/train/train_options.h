// Options [train]: what a step does and how many there are.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/option.h"

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
  VAX_SECTION(TrainOptions, .name = "train", .users = kTraining);
  // The legal values are those of the program's methods, the default depends on the subcommand.
  VAX_OPTION(std::string, method, {}, "what a step does", .users = kTraining | kPlan);
  VAX_OPTION(int64_t, global_batch, 5, "rows of one step over all ranks", .legal = at_least(1),
             .users = kTraining | kPlan, .on_resume = OnResume::kRefused);
  VAX_OPTION(std::optional<int64_t>, micro_batch, {}, "most rows of one pass on a rank",
             .legal = at_least(1), .unset = "all", .users = kTraining | kPlan,
             .on_resume = OnResume::kSameNumbers);
  // 50 when max_steps is not given either.
  VAX_OPTION(std::optional<double>, epochs, {}, "passes over the data, unless max_steps is given",
             .legal = above(0));
  VAX_OPTION(std::optional<int64_t>, max_steps, {},
             "steps, in place of epochs; 0: write the initial weights", .legal = at_least(0));
  VAX_OPTION(double, lr, 1e-3, "peak learning rate", .legal = at_least(0));
  VAX_OPTION(double, weight_decay, 0.1, "decoupled; not on norms and biases", .legal = at_least(0));
  VAX_OPTION(double, beta1, 0.9, "AdamW: decay of the mean gradient", .legal = from_up_to(0, 1));
  VAX_OPTION(double, beta2, 0.999, "AdamW: decay of the mean squared gradient",
             .legal = from_up_to(0, 1));
  VAX_OPTION(double, eps, 1e-8, "AdamW: added to the denominator", .legal = above(0));
  VAX_OPTION(Schedule, schedule, Schedule::kCosine, "rate after warm-up");
  VAX_OPTION(double, warmup_ratio, 0.1, "share of the steps that warm up", .legal = between(0, 1));
  VAX_OPTION(double, clip, 1.0, "largest L2 norm of the gradient; 0: no clipping",
             .legal = at_least(0));
  VAX_OPTION(Recompute, recompute, Recompute::kNone, "activations computed again",
             .users = kTraining | kPlan, .on_resume = OnResume::kSameNumbers);
  VAX_OPTION(uint64_t, seed, 42, "of the initial adapter, the order of rows and dropout",
             .on_resume = OnResume::kRefused);
};

}  // namespace vax
