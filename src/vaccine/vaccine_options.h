// Options [vaccine]: the perturbation of train.method vaccine.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/option.h"
#include "train/model_options.h"

namespace vax {

// Over which micro-batches and ranks S (and a shared direction) is summed.
enum class NormScope { kGlobal, kRank, kMicro };
constexpr auto words_of(NormScope) {
  return std::to_array<std::string_view>({"global", "rank", "micro"});
}

enum class Direction { kToken, kShared };
constexpr auto words_of(Direction) { return std::to_array<std::string_view>({"token", "shared"}); }

enum class DropoutMask { kSame, kFresh };
constexpr auto words_of(DropoutMask) { return std::to_array<std::string_view>({"same", "fresh"}); }

// METHOD: eps_l = rho * G_l / (sqrt(S) + 1e-7).
struct VaccineOptions {
  VAX_SECTION(VaccineOptions, .name = "vaccine", .users = kTraining | kPlan);
  VAX_OPTION(double, rho, 2.0, "L2 norm of the perturbation; 0: none, equals sft",
             .legal = at_least(0));
  VAX_OPTION(NormScope, norm_scope, NormScope::kGlobal, "where the norm is summed");
  VAX_OPTION(Direction, direction, Direction::kToken, "one vector a token or a layer");
  // Two passes when (step - 1) % interval == 0.
  VAX_OPTION(int64_t, interval, 1, "two passes every interval-th step, one in the others",
             .legal = at_least(1));
  VAX_OPTION(std::vector<int64_t>, layers, {}, "perturbed layers, counted from 0 (list)",
             .legal = distinct(at_least(0)), .unset = "all");
  VAX_OPTION(ProbeDtype, probe_dtype, ProbeDtype::kSame, "arithmetic of pass 1; fp8: GPU");
  VAX_OPTION(int64_t, probe_check_interval, 100, "steps between checks of such a pass 1; 0: never",
             .legal = at_least(0), .on_resume = OnResume::kSameNumbers);
  VAX_OPTION(DropoutMask, dropout_mask, DropoutMask::kSame, "masks of pass 1 against pass 2's");
};

}  // namespace vax
