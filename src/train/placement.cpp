#include "train/placement.h"

#include "base/error.h"
#include "base/narrow.h"

namespace vax::train {

PlanePlacement placement_of(const ShardOptions& shard, bool trainable, bool on_device) {
  if (on_device && (shard.frozen == Placement::kNode || shard.trainable == Placement::kNode))
    throw ConfigError(
        "shard.frozen, shard.trainable: expected full or replicate on a GPU (ranks share the "
        "memory "
        "of a host only), found node");
  const Placement asked = trainable ? shard.trainable : shard.frozen;
  const bool replicates = asked == Placement::kReplicate;
  const bool shares = asked == Placement::kNode || (replicates && !trainable && !on_device);
  return {.on_node = shares, .keeps_all = replicates && !shares};
}

int group_size_of(const PlanePlacement& placement, const ShardOptions& shard,
                  const Layout& layout) {
  if (placement.on_node) return layout.ranks_per_node;
  const int64_t size = shard.group_size.value_or(layout.num_ranks);
  if (size < 1 || layout.num_ranks % size != 0)
    throw ConfigError(cat("shard.group_size: expected a divisor of the number of ranks = ",
                          layout.num_ranks, ", found ", size));
  return narrow<int>(size);
}

}  // namespace vax::train
