// Options [shard]: how weights are spread over the ranks.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/option.h"

namespace vax {

enum class Placement { kReplicate, kNode, kFull };
constexpr auto words_of(Placement) {
  return std::to_array<std::string_view>({"replicate", "node", "full"});
}

struct ShardOptions {
  VAX_SECTION(ShardOptions, .name = "shard", .users = kWeightUsers | kPlan,
              .on_resume = OnResume::kSameNumbers);
  VAX_OPTION(Placement, frozen, Placement::kFull, "where frozen weights lie");
  VAX_OPTION(Placement, trainable, Placement::kFull, "where trained weights lie");
  VAX_OPTION(std::optional<int64_t>, group_size, {},
             "ranks a weight is spread over; divides their number", .legal = at_least(1),
             .unset = "all ranks");
  VAX_OPTION(double, residency_gib, 0, "GiB of gathered weights kept beyond those in use",
             .legal = at_least(0));
  VAX_OPTION(int64_t, prefetch, 1, "blocks gathered ahead of their use", .legal = at_least(0));
};

}  // namespace vax
