// Private to this folder: the shards of units, shared by all ShardedUnits that view them, and the
// memory in which the units of a node lie whole. Node-shared in host memory only.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/shard/sharding_plan.h"

namespace vax::dist {

// Padded units, one after another in one block of the node, each 64-byte aligned; zero.
// [shard_count * size] each. A tensor keeps the block alive. COLLECTIVE over node.
std::vector<at::Tensor> make_node_units(const Communicator& node,
                                        const std::vector<Partition>& partitions,
                                        at::ScalarType type);

struct ShardStore {
  // Allocates shards (zero) of `options.shard_dtype` on `options.device`. COLLECTIVE over
  // options.node unless it is null. THROWS std::logic_error when it is set on another device than
  // the CPU or has other ranks.
  ShardStore(int rank, int size, const std::vector<int64_t>& unit_counts,
             const ShardedUnitsOptions& options);

  const at::ScalarType type;
  const at::Device device;
  const int rank, size;
  std::vector<Partition> partitions;
  // The padded units, where this process has all of them: one rank, or node-shared; else empty.
  std::vector<at::Tensor> units;
  std::vector<at::Tensor> shards;  // this rank's slices
  const bool node_shared;
  bool updating = false;  // between begin_update() and refresh()
  int num_held = 0;       // units acquired, through any view
  int64_t version = 0;    // refreshes of the owner
};

}  // namespace vax::dist
