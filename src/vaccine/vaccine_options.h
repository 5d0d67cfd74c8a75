// Options [vaccine]: the perturbation of train.method vaccine.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/choice.h"
#include "train/model_options.h"

namespace vax {

// Over which micro-batches and ranks S (and a shared direction) is summed.
enum class NormScope { kGlobal, kRank, kMicro };
constexpr auto words_of(NormScope) {
  return std::to_array<std::string_view>({"global", "rank", "micro"});
}

enum class Direction { kToken, kShared };  // one vector a token, or one for all
constexpr auto words_of(Direction) { return std::to_array<std::string_view>({"token", "shared"}); }

enum class DropoutMask { kSame, kFresh };  // of pass 1, against pass 2's
constexpr auto words_of(DropoutMask) { return std::to_array<std::string_view>({"same", "fresh"}); }

// METHOD: eps_l = rho * G_l / (sqrt(S) + 1e-7).
struct VaccineOptions {
  double rho = 2.0;
  NormScope norm_scope = NormScope::kGlobal;
  Direction direction = Direction::kToken;
  int64_t interval = 1;         // two passes when (step - 1) % interval == 0
  std::vector<int64_t> layers;  // 0-based; empty = all
  ProbeDtype probe_dtype = ProbeDtype::kSame;
  int64_t probe_check_interval = 100;  // steps between measurements of the probe's cosine; 0: never
  DropoutMask dropout_mask = DropoutMask::kSame;
};

}  // namespace vax
