// Where a plane of weights (the frozen or the trainable part of all units) lies: the one rule from
// which the groups of ranks (train/mesh.h), the storage of units (train/model_plan.h) and the plan
// follow. For each plane world = shard groups x replicas: consecutive ranks form a shard group
// (units are spread over it), ranks at the same place of every shard group are replicas (their
// gradient shards are summed). The shard group is
//   full       group_size ranks; all of them by default
//   node       the ranks of a node, which share its memory: a unit lies there once and is read in
//              place, nothing is gathered. Not on GPUs
//   replicate  frozen: as node, the closest to one copy a rank that shared memory makes sensible;
//              on GPUs as full, with every unit gathered once and kept.
//              trainable: as full for masters and optimizer state; only the gathered copies stay
#pragma once

#include "train/shard_options.h"

namespace vax::train {

// Ranks of a run and how they are spread.
struct Layout {
  int num_ranks = 1;
  int ranks_per_node = 1;
  bool on_device = false;  // ranks share no memory then
};

struct PlanePlacement {
  bool on_node = false;    // in memory that the ranks of a node share
  bool keeps_all = false;  // gathered units stay until the weights change
};

// THROWS ConfigError where a placement shares the memory of a node's hosts and there are devices.
PlanePlacement placement_of(const ShardOptions& shard, bool trainable, bool on_device);

// Ranks in one shard group of a plane. THROWS ConfigError when group_size does not divide the
// ranks.
int group_size_of(const PlanePlacement& placement, const ShardOptions& shard, const Layout& layout);

}  // namespace vax::train
