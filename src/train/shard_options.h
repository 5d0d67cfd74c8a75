// Options [shard]: how weights are spread over the ranks.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/choice.h"

namespace vax {

enum class Placement { kReplicate, kNode, kFull };
constexpr auto words_of(Placement) {
  return std::to_array<std::string_view>({"replicate", "node", "full"});
}

struct ShardOptions {
  Placement frozen = Placement::kFull;
  Placement trainable = Placement::kFull;
  std::optional<int64_t> group_size;  // ranks a unit is spread over; all
  double residency_gib = 0;           // gathered units kept beyond those in use
  int64_t prefetch = 1;               // units gathered ahead
};

}  // namespace vax
