// Units of parameters cut over the ranks of a group, gathered on use, their gradients reduced back.
//
// A unit is a flat buffer of `count` elements, padded to size * shard_count; rank r owns
// [r * shard_count, (r + 1) * shard_count). Units without elements are legal: they take no slot and
// cause no traffic. Invariants that are easy to break:
// - a tensor returned by acquire() is a view of a slot: it dies with release(), and nothing that is
//   saved for later may alias it;
// - every rank of the group acquires and releases the same units in the same order, because a
//   gather is a collective;
// - acquire() and release() of both classes also move pending operations on: without a progress
//   thread MPI makes progress only inside its calls, and in shared memory sums are made there;
// - in node-shared memory a rank reads what others write: only between refresh() and
//   begin_update(), which wait for all ranks;
// - on a device everything is ordered on the compute stream that the group was made with, which
//   must be LibTorch's current stream: tensors are valid for what is put there after the call that
//   returns them, and the host has not waited.
// Ownership: the collectives are borrowed and must outlive the object. Not thread-safe. Node-shared
// memory is host memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "base/flat_layout.h"
#include "dist/comm/collectives.h"
#include "dist/shard/schedule.h"
#include "dist/shard/sharding_plan.h"

namespace vax::dist {

// With one rank and equal types a gathered unit is the shard itself: no copy, no slot. With one
// rank and different types every unit keeps a cast. Node-shared units are whole without being
// gathered: acquire() returns a view of the node's block, or of the node's one cast copy.
class ShardedUnits {
 public:
  // Allocates shards (zero) and slots. COLLECTIVE when options.node is set. THROWS
  // std::logic_error as plan_slots(), ConfigError and CommError as SharedMemory.
  ShardedUnits(Collectives& group, std::vector<int64_t> unit_counts, ShardedUnitsOptions options);
  // A second view of the owner's shards, gathered in another type: options.gather_dtype, with
  // slots, prefetch and residency of its own; partition() and shard() are the owner's,
  // shard_bytes() is 0. `group` has the owner's ranks; two that gather at the same time need two
  // groups. Node-shared exactly when the owner is: options.node must be set then. Its refresh()
  // follows the owner's, before the next acquire(). The shards live as long as either object.
  // COLLECTIVE when node-shared. THROWS std::logic_error when types, devices, ranks or sharing
  // disagree.
  ShardedUnits(Collectives& group, ShardedUnits& owner, ShardedUnitsOptions options);
  ShardedUnits(const ShardedUnits&) = delete;
  ShardedUnits& operator=(const ShardedUnits&) = delete;
  ~ShardedUnits();

  int num_units() const;
  const Partition& partition(int unit) const;
  // This rank's slice, [shard_count], shard_dtype; zero padding at the end. The truth: loading and
  // the optimizer write here, between begin_update() and refresh().
  at::Tensor& shard(int unit);

  // Tells the uses of the coming step; acquire() then prefetches and keeps by it until all of them
  // have taken place. Without it every acquire gathers on demand. COLLECTIVE in effect: the same
  // events on every rank. REQUIRES nothing held and the previous step's uses done.
  // THROWS std::logic_error when this is not so or the events make no sense (make_schedule).
  void begin_step(const std::vector<UnitEvent>& events);
  // The whole unit, [count], gather_dtype, 64-byte aligned. COLLECTIVE. BLOCKS host (on a device
  // the compute stream; staged groups block the host too) until it is gathered. Nested acquires of
  // different units are allowed (a tied head needs two), up to the number of slots; of one unit are
  // not. THROWS std::logic_error on that, on a deviation from begin_step(), during an update and
  // when the owner has changed since refresh(); CommError.
  at::Tensor acquire(int unit);
  // Never throws on a deviation or CommError, since it runs in destructors; acquire() reports them.
  // THROWS std::logic_error when the unit is not held.
  void release(int unit);

  // Shards are written between begin_update() and refresh(), and nothing is acquired there.
  // COLLECTIVE. REQUIRES nothing held, here and in views of the same shards. Node-shared: BLOCKS
  // host until every rank has stopped reading. Only the owner updates.
  void begin_update();
  // The shards have changed: gathered copies are stale and are gathered anew when next acquired.
  // Ends the announced step. COLLECTIVE. REQUIRES nothing held. Node-shared: makes the cast copy
  // and BLOCKS host until every rank has done so; THROWS std::logic_error without begin_update().
  void refresh();

  int num_slots() const;
  // Of this rank; of node-shared memory its share.
  int64_t shard_bytes() const;
  int64_t slot_bytes() const;  // gathered buffers and cast copies

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A unit's gradient while it is made.
struct GradientBuffer {
  at::Tensor flat;  // [count], fp32, 64-byte aligned
  // false: `flat` holds rubbish and every member must be written; true: members are added to.
  bool accumulate = false;
};

// Gradients of the same units. acquire() hands out a flat fp32 buffer to write or add to;
// release() starts its reduce-scatter (sum over the group, in rank order), which is added to this
// rank's fp32 gradient shard in the order of the releases: the result does not depend on timing.
// Gaps between the groups of a unit read as zero and stay so: callers leave them alone.
class ShardedGradients {
 public:
  // Units without gaps: who writes one, writes all its elements.
  ShardedGradients(Collectives& group, std::vector<int64_t> unit_counts, at::Device device);
  // `device` other than the CPU: the group must serve device memory (device_group.h).
  // The units of `layout`, with the gaps between their groups. `node`, when set, has the ranks of
  // `group` and they share a host: the buffers lie in shared memory, and every rank adds its part
  // up where the others have written it; nothing is sent. COLLECTIVE then. Host memory only then.
  // THROWS std::logic_error; ConfigError and CommError as SharedMemory.
  ShardedGradients(Collectives& group, const FlatLayout& layout, at::Device device,
                   const Communicator* node = nullptr);
  ShardedGradients(const ShardedGradients&) = delete;
  ShardedGradients& operator=(const ShardedGradients&) = delete;
  ~ShardedGradients();

  // The unit's buffer. With one rank it is the shard itself, to be added to once it has been
  // written since zero(). With several it is to be written, always: earlier sums are in the shard.
  // At most two units at once, a unit once; it may be acquired again after its release
  // (micro-batches, a tied embedding). COLLECTIVE. BLOCKS host (on a device the compute stream)
  // when all buffers are under way. THROWS std::logic_error, CommError.
  GradientBuffer acquire(int unit);
  void release(int unit);
  // All outstanding reductions are in the shards; those of units that nobody has released since
  // zero() are zero. BLOCKS host (on a device the compute stream). COLLECTIVE.
  void finish();

  at::Tensor& shard(int unit);  // [shard_count], fp32; valid after finish()
  // Before a step, in constant time per unit: the shards are void until finish(). REQUIRES nothing
  // held or outstanding.
  void zero();
  int64_t num_bytes() const;  // shards and buffers of this rank
  // Host time spent waiting for other ranks with node-shared buffers, s. Other waits are in the
  // group's statistics.
  double waited_s() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vax::dist
