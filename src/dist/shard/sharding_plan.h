// How units are cut over a group, and what that costs: shards, slots, schedule, traffic. Without
// MPI and without allocating anything, so that a layout can be judged before it is tried.
// ShardedUnits and ShardedGradients decide with the same functions: plan and run cannot differ.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <vector>

#include "dist/comm/collectives.h"
#include "dist/shard/schedule.h"

namespace vax::dist {

class Communicator;

// THROWS std::logic_error unless float32, float64 or bfloat16.
DataType data_type(at::ScalarType type);

// Contiguous slices of one unit over a group.
struct Partition {
  int64_t count = 0;        // elements of the unit
  int64_t shard_count = 0;  // elements per rank: ceil(count / size)
  // This rank's part of the unit without the padding: [begin, end), begin <= end <= count.
  int64_t begin = 0, end = 0;
};
Partition make_partition(int64_t count, int rank, int size);

struct ShardedUnitsOptions {
  at::ScalarType shard_dtype = at::kFloat;   // the shards: what is stored
  at::ScalarType gather_dtype = at::kFloat;  // the gathered unit: what is computed with
  // Budget for units that stay gathered while unused, beyond max(held_at_once, 1 + prefetch) slots
  // of the size of the largest unit. When it covers all units each has a slot of its own size.
  double residency_gib = 0;
  int prefetch = 1;        // units gathered ahead
  bool replicate = false;  // every unit stays gathered; refresh() after the shards have changed
  int held_at_once = 1;    // units acquired at once; 2 for a head that is tied to the embedding
  // The shards of a group whose ranks share a host lie side by side in one block of memory, so that
  // units are whole without being gathered. For plan_units(); ShardedUnits goes by `node`.
  bool node_shared = false;
  // Node-shared when set: the communicator in which the block is made. REQUIRES the ranks of the
  // group, in the same order, all on one host. Used by the constructor only.
  const Communicator* node = nullptr;
  // Where shards and gathered units lie; of no consequence for a plan. Other than the CPU: the
  // group must serve device memory (device_group.h) and node must be null.
  at::Device device = at::kCPU;
};

// Where the gathered units of one rank lie.
struct SlotPlan {
  // Acquired units are views of the shards (one rank, or node-shared, with equal types), or of one
  // cast copy of them on the node (node-shared).
  bool views_shards = false, node_cast = false;
  bool own_slots = false;            // slot i is for unit i only and has its size
  std::vector<int64_t> slot_counts;  // elements of each slot, gather_dtype
};
// THROWS std::logic_error: dtypes other than float32, float64 and bfloat16, negative counts,
// prefetch or residency, held_at_once below 1.
SlotPlan plan_slots(const std::vector<int64_t>& unit_counts, int group_size,
                    const ShardedUnitsOptions& options);
// The events of one step on these slots. `residents` as in ScheduleOptions. Elements of the
// schedule include the padding of the units, those that are empty are left out.
Schedule plan_step(const std::vector<int64_t>& unit_counts, int group_size,
                   const ShardedUnitsOptions& options, const SlotPlan& slots,
                   const std::vector<UnitEvent>& events, std::vector<int> residents);

struct ShardingPlan {
  int num_slots = 0;
  // Of one rank; of node-shared memory its share (the sum over the ranks is what the node holds).
  int64_t shard_bytes = 0, slot_bytes = 0;
  // One step with nothing resident at its beginning (the first; every one after a refresh()), and
  // one with what such steps leave behind (weights that do not change). No entries without slots.
  Schedule first, steady;
  // What one rank receives per step: as CollectiveStatistics counts it.
  int64_t first_gathered_bytes = 0, steady_gathered_bytes = 0;
};
ShardingPlan plan_units(const std::vector<int64_t>& unit_counts, int group_size,
                        const ShardedUnitsOptions& options, const std::vector<UnitEvent>& events);

// Gradient buffers that go round: one is filled while another is under way. In shared memory a
// third, so that a rank that is ahead does not wait at once for the others to have read.
inline constexpr int kGradientBuffers = 2, kNodeGradientBuffers = 3;

// The same for ShardedGradients. `releases` = units in the order in which a step releases their
// gradients (a tied embedding twice per micro-batch). Buffer bytes leave out what the collectives
// keep for receiving.
struct GradientPlan {
  int64_t shard_bytes = 0, buffer_bytes = 0;
  int64_t reduced_bytes = 0;  // what one rank sends per step; 0 when node_shared: nothing is sent
};
GradientPlan plan_gradients(const std::vector<int64_t>& unit_counts, int group_size,
                            bool node_shared, const std::vector<int>& releases);

}  // namespace vax::dist
