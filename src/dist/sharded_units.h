// Units of parameters cut over the ranks of a group, gathered on use, their gradients reduced back.
//
// A unit is a flat buffer of `count` elements, padded to size * shard_count; rank r owns
// [r * shard_count, (r + 1) * shard_count). Units without elements are legal: they take no slot and
// cause no traffic. Invariants that are easy to break:
// - a tensor returned by acquire() is a view of a slot: it dies with release(), and nothing that is
//   saved for later may alias it;
// - every rank of the group acquires and releases the same units in the same order, because a
//   gather is a collective;
// - acquire() and release() of both classes also move pending operations on: MPI makes progress
//   only inside its calls.
// Ownership: the collectives are borrowed and must outlive the object. Not thread-safe. Host memory
// only.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "dist/collectives.h"
#include "dist/schedule.h"

namespace vax::dist {

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
  // Budget for units that stay gathered while unused, beyond max(2, 1 + prefetch) slots of the size
  // of the largest unit. When it covers all units each has a slot of its own size.
  double residency_gib = 0;
  int prefetch = 1;        // units gathered ahead
  bool replicate = false;  // every unit stays gathered; refresh() after the shards have changed
};

// With one rank and equal types a gathered unit is the shard itself: no copy, no slot. With one
// rank and different types every unit keeps a cast.
class ShardedUnits {
 public:
  // Allocates shards (zero) and slots. dtypes: float32, float64, bfloat16. THROWS std::logic_error
  // on others and on negative counts, prefetch or residency.
  ShardedUnits(Collectives& group, std::vector<int64_t> unit_counts, ShardedUnitsOptions options);
  ShardedUnits(const ShardedUnits&) = delete;
  ShardedUnits& operator=(const ShardedUnits&) = delete;
  ~ShardedUnits();

  int num_units() const;
  const Partition& partition(int unit) const;
  // This rank's slice, [shard_count], shard_dtype; zero padding at the end. The truth: loading and
  // the optimizer write here, and call refresh() when they are done.
  at::Tensor& shard(int unit);

  // Tells the uses of the coming step; acquire() then prefetches and keeps by it until all of them
  // have taken place. Without it every acquire gathers on demand. COLLECTIVE in effect: the same
  // events on every rank. REQUIRES nothing held and the previous step's uses done.
  // THROWS std::logic_error when this is not so or the events make no sense (make_schedule).
  void begin_step(const std::vector<UnitEvent>& events);
  // The whole unit, [count], gather_dtype, 64-byte aligned. COLLECTIVE. BLOCKS host until it is
  // gathered. Nested acquires of different units are allowed (a tied head needs two), up to the
  // number of slots; of one unit are not. THROWS std::logic_error on that and on a deviation from
  // begin_step(); CommError.
  at::Tensor acquire(int unit);
  // Never throws on a deviation or CommError, since it runs in destructors; acquire() reports them.
  // THROWS std::logic_error when the unit is not held.
  void release(int unit);
  // The shards have changed: gathered copies are stale and are gathered anew when next acquired.
  // Ends the announced step. COLLECTIVE. REQUIRES nothing held.
  void refresh();

  int num_slots() const;
  int64_t shard_bytes() const;  // of this rank
  int64_t slot_bytes() const;   // gathered buffers of this rank

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Gradients of the same units. acquire() hands out a flat fp32 buffer to add to; release() starts
// its reduce-scatter (sum over the group, in rank order), which is added to this rank's fp32
// gradient shard in the order of the releases: the result does not depend on timing.
class ShardedGradients {
 public:
  ShardedGradients(Collectives& group, std::vector<int64_t> unit_counts, at::Device device);
  ShardedGradients(const ShardedGradients&) = delete;
  ShardedGradients& operator=(const ShardedGradients&) = delete;
  ~ShardedGradients();

  // The unit's flat buffer, [count], fp32: zero, or the sum so far. The caller adds to it. With one
  // rank it is the shard itself: no copy. At most two units at once, a unit once; it may be
  // acquired again after its release (micro-batches). COLLECTIVE. BLOCKS host when all buffers are
  // under way. THROWS std::logic_error, CommError.
  at::Tensor acquire(int unit);
  void release(int unit);
  // All outstanding reductions are in the shards. BLOCKS host. COLLECTIVE.
  void finish();

  at::Tensor& shard(int unit);  // [shard_count], fp32; valid after finish()
  void zero();                  // before a step. REQUIRES nothing held or outstanding
  int64_t num_bytes() const;    // shards and buffers of this rank

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vax::dist
