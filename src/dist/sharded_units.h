// Units of parameters cut over the ranks of a group, gathered on use, their gradients reduced back.
//
// A unit is a flat buffer of `count` elements, padded to size * shard_count; rank r owns
// [r * shard_count, (r + 1) * shard_count). Invariants that are easy to break:
// - a tensor returned by acquire() is a view of a slot: it dies with release(), and nothing that is
//   saved for later may alias it;
// - every rank of the group acquires and releases the same units in the same order, because a
//   gather is a collective.
// Ownership: the collectives are borrowed and must outlive the object. Not thread-safe.
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
  double residency_gib = 0;                  // budget for units that stay gathered while unused
  int prefetch = 1;
  bool replicate = false;  // every unit stays gathered; refresh() after the shards have changed
};

class ShardedUnits {
 public:
  ShardedUnits(Collectives& group, std::vector<int64_t> unit_counts, ShardedUnitsOptions options);
  ~ShardedUnits();

  int num_units() const;
  const Partition& partition(int unit) const;
  // This rank's slice, [shard_count], shard_dtype; zero padding at the end. The truth: loading and
  // the optimizer write here.
  at::Tensor& shard(int unit);

  // Tells the uses of the coming step, in order; acquire() then prefetches and keeps by it. Without
  // it every acquire gathers on demand. COLLECTIVE in effect.
  void begin_step(const std::vector<int>& uses);
  // The whole unit, [count], gather_dtype. COLLECTIVE. Nested acquires of different units are
  // allowed (a tied head needs two); of one unit are not.
  at::Tensor acquire(int unit);
  void release(int unit);
  // The shards have changed: gathered copies are stale. COLLECTIVE (replicate gathers anew).
  void refresh();

  int64_t shard_bytes() const;  // of this rank
  int64_t slot_bytes() const;   // gathered buffers of this rank

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Gradients of the same units. acquire() hands out a flat fp32 buffer to add to; release() starts its
// reduce-scatter (sum over the group), which is added to this rank's fp32 gradient shard.
class ShardedGradients {
 public:
  ShardedGradients(Collectives& group, std::vector<int64_t> unit_counts, at::Device device);
  ~ShardedGradients();

  // The unit's flat buffer, [count], fp32: zero, or the sum so far. The caller adds to it. With one
  // rank it is the shard itself: no copy.
  at::Tensor acquire(int unit);
  void release(int unit);
  // All outstanding reductions are in the shards. BLOCKS host. COLLECTIVE.
  void finish();

  at::Tensor& shard(int unit);  // [shard_count], fp32
  void zero();                  // before a step
  int64_t num_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vax::dist
