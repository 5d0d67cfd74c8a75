// The groups of ranks that a run communicates in. World = shard groups x replicas: consecutive
// ranks form a shard group (units are spread over it), ranks at the same place of every shard group
// are replicas (their gradient shards are summed). Each purpose has its own communicator, so that
// outstanding operations of different kinds never have to agree on an order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "dist/collectives.h"
#include "dist/communicator.h"

namespace vax::train {

struct Mesh {
  std::unique_ptr<dist::Collectives> world;      // losses, norms, decisions
  std::unique_ptr<dist::Collectives> self;       // for what is not sharded
  std::unique_ptr<dist::Collectives> frozen;     // gathers of frozen units, over a shard group
  std::unique_ptr<dist::Collectives> trainable;  // gathers of trainable units, over a shard group
  std::unique_ptr<dist::Collectives> reduce;     // reductions of gradients, over a shard group
  std::unique_ptr<dist::Collectives> replicas;   // sums of gradient shards

  // Host seconds that this rank has waited in collectives so far.
  double blocked_s() const;
};

// COLLECTIVE over `world`. group_size empty: all ranks form one shard group.
// THROWS ConfigError when group_size does not divide the number of ranks.
Mesh make_mesh(const dist::Communicator& world, std::optional<int64_t> group_size);

}  // namespace vax::train
