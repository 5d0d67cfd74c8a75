// The groups of ranks that a run communicates in: for each plane of weights its shard groups and
// replicas, as train/placement.h says. Each purpose has its own communicator, so that outstanding
// operations of different kinds never have to agree on an order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "dist/comm/call_log.h"
#include "dist/comm/collectives.h"
#include "dist/comm/communicator.h"
#include "dist/device/device_group.h"
#include "train/shard_options.h"

namespace vax::train {

struct Mesh {
  std::unique_ptr<dist::Collectives> world;      // losses, norms, decisions: of host memory
  std::unique_ptr<dist::Collectives> frozen;     // gathers of frozen units, over a shard group
  std::unique_ptr<dist::Collectives> trainable;  // gathers of trainable units, over a shard group
  std::unique_ptr<dist::Collectives> probe;      // gathers of the probe's weights, over the shard
                                                 // group of the plane that they are copies of
  std::unique_ptr<dist::Collectives> reduce;     // reductions of gradients, over a shard group
  std::unique_ptr<dist::Collectives> replicas;   // sums of gradient shards
  // Sums that stay where the tensors are; null on a host, where `world` serves. With a device all
  // groups but `world` are of its memory.
  std::unique_ptr<dist::Collectives> device_world;
  std::shared_ptr<dist::CallLog> calls;  // of all of them; told where the program is
  // Whether rank 0 of the world is of this rank's frozen shard group: the one of equal ones that
  // writes what it holds.
  bool is_first_of_frozen = false;
  // The ranks that share a plane's memory, where its placement says so.
  std::optional<dist::Communicator> frozen_node, trainable_node;

  // Host seconds that this rank has waited in collectives so far.
  double blocked_s() const;
  // Bytes that this rank has sent, as CollectiveStatistics counts them.
  int64_t sent_bytes() const;
};

// COLLECTIVE over `world`. `node`: the ranks of this rank's node (Communicator::split_by_node, or,
// to try several nodes on one machine, any part of it). `probe_is_trainable`: the probe's weights
// are copies of trainable ones (full parameters). `device`: of this rank, null on a host; the
// communicator must outlive the mesh then. THROWS ConfigError, on all ranks, when group_size does
// not divide the number of ranks or, with trainable = node, nodes have different numbers of ranks;
// with a device also as placement_of().
Mesh make_mesh(const dist::Communicator& world, const dist::Communicator& node,
               const ShardOptions& shard, bool probe_is_trainable,
               const dist::DeviceContext* device = nullptr);

}  // namespace vax::train
