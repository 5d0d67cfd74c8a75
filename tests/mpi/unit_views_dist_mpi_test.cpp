// Node-shared units, and second views of the same shards in another type: both against the whole
// that the shards were cut from, over updates; misuse that would read what another rank writes.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/shard/sharded_units.h"
#include "support/unit_values.h"

namespace vax::dist {
namespace {

const std::vector<int64_t> kUnitCounts = {230, 1, 0, 240, 211, 97};
constexpr int kNumUnits = 6;

at::Tensor whole_unit(int unit, int version) {
  return testing::unit_values(kUnitCounts[unit], unit, version);
}

void expect_units(ShardedUnits& units, int version, at::ScalarType shard, at::ScalarType gathered) {
  const std::vector<UnitEvent> events = unit_events({0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0});
  units.begin_step(events);
  for (const UnitEvent& event : events) {
    if (!event.acquire) {
      units.release(event.unit);
      continue;
    }
    const at::Tensor actual = units.acquire(event.unit);
    EXPECT_EQ(actual.scalar_type(), gathered);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(actual.const_data_ptr()) % 64, 0u);
    EXPECT_TRUE(at::equal(actual, whole_unit(event.unit, version).to(shard).to(gathered)))
        << "unit " << event.unit << ", version " << version;
  }
}

class UnitViews : public ::testing::Test {
 protected:
  ShardedUnitsOptions options(at::ScalarType shard, at::ScalarType gathered, bool shared) const {
    return {.shard_dtype = shard, .gather_dtype = gathered, .node = shared ? &node_ : nullptr};
  }
  const Communicator node_ = Communicator::world().split_by_node();
  const std::unique_ptr<Collectives> group_ = node_.make_collectives();
  const std::unique_ptr<Collectives> other_group_ = node_.make_collectives();
  const bool alone_ = group_->size() == 1;
};

TEST_F(UnitViews, NodeSharedUnitsAreWholeWithoutTraffic) {
  for (const auto& [shard, gathered] :
       {std::pair(at::kFloat, at::kFloat), std::pair(at::kFloat, at::kBFloat16),
        std::pair(at::kBFloat16, at::kBFloat16), std::pair(at::kDouble, at::kFloat)}) {
    ShardedUnits units(*group_, kUnitCounts, options(shard, gathered, true));
    for (int version = 0; version < 3; ++version) {
      testing::write_unit_values(units, version);
      units.refresh();
      expect_units(units, version, shard, gathered);
    }
    EXPECT_EQ(units.num_slots(), alone_ && shard != gathered ? kNumUnits : 0);
  }
  EXPECT_EQ(group_->statistics().num_bytes, 0);
}

TEST_F(UnitViews, NodeSharedMemoryIsCountedOncePerNode) {
  int64_t padded = 0;
  ShardedUnits same(*group_, kUnitCounts, options(at::kFloat, at::kFloat, true));
  ShardedUnits cast(*group_, kUnitCounts, options(at::kFloat, at::kBFloat16, true));
  for (int unit = 0; unit < kNumUnits; ++unit) padded += same.partition(unit).shard_count;
  EXPECT_EQ(same.shard_bytes(), padded * 4);
  EXPECT_EQ(same.slot_bytes(), 0);
  EXPECT_EQ(cast.shard_bytes(), padded * 4);
  EXPECT_EQ(cast.slot_bytes(), padded * 2);
}

// All ranks read what one rank has written: there is one copy.
TEST_F(UnitViews, NodeSharedUnitsAreViewsOfTheShards) {
  ShardedUnits units(*group_, kUnitCounts, options(at::kFloat, at::kFloat, true));
  testing::write_unit_values(units, 1);
  units.refresh();
  const Partition& part = units.partition(3);
  const at::Tensor unit = units.acquire(3);
  EXPECT_EQ(unit.data_ptr<float>() + part.begin, units.shard(3).data_ptr<float>());
  units.release(3);
}

// Ranks that race ahead must not write what others still read: each version is checked against
// one number, so that a mix shows.
TEST_F(UnitViews, UpdatesWaitForReadersAndReadersForUpdates) {
  for (const at::ScalarType gathered : {at::kFloat, at::kBFloat16}) {
    ShardedUnits units(*group_, {4099}, options(at::kFloat, gathered, true));
    for (int version = 1; version <= 200; ++version) {
      units.begin_update();
      units.shard(0).fill_(version);
      units.refresh();
      const at::Tensor unit = units.acquire(0);
      ASSERT_EQ(unit.min().item<float>(), version);
      ASSERT_EQ(unit.max().item<float>(), version);
      units.release(0);
    }
  }
}

TEST_F(UnitViews, SecondViewGathersTheSameShardsInItsOwnType) {
  for (const bool shared : {false, true})
    for (const bool replicate : {false, true}) {
      ShardedUnitsOptions view_options = options(at::kFloat, at::kBFloat16, shared);
      view_options.replicate = replicate;
      ShardedUnits owner(*group_, kUnitCounts, options(at::kFloat, at::kFloat, shared));
      ShardedUnits view(*other_group_, owner, view_options);
      EXPECT_EQ(view.shard_bytes(), 0);
      for (int version = 0; version < 3; ++version) {
        testing::write_unit_values(owner, version);
        owner.refresh();
        view.refresh();
        expect_units(view, version, at::kFloat, at::kBFloat16);
        expect_units(owner, version, at::kFloat, at::kFloat);
        expect_units(view, version, at::kFloat, at::kBFloat16);
      }
      EXPECT_EQ(view.shard(0).data_ptr(), owner.shard(0).data_ptr());
    }
}

TEST_F(UnitViews, ViewMadeAfterTheShardsNeedsNoRefreshAndOutlivesTheOwner) {
  for (const bool shared : {false, true}) {
    auto owner = std::make_unique<ShardedUnits>(*group_, kUnitCounts,
                                                options(at::kFloat, at::kFloat, shared));
    testing::write_unit_values(*owner, 5);
    owner->refresh();
    ShardedUnits view(*other_group_, *owner, options(at::kFloat, at::kBFloat16, shared));
    owner.reset();
    expect_units(view, 5, at::kFloat, at::kBFloat16);
  }
}

// Copies of weights that do not change are made once.
TEST_F(UnitViews, UnchangedUnitsAreGatheredOnce) {
  ShardedUnits owner(*group_, kUnitCounts, options(at::kFloat, at::kFloat, false));
  ShardedUnitsOptions view_options = options(at::kFloat, at::kBFloat16, false);
  view_options.replicate = true;
  ShardedUnits view(*other_group_, owner, view_options);
  testing::write_unit_values(owner, 5);
  owner.refresh();
  view.refresh();
  for (int pass = 0; pass < 2; ++pass) {
    expect_units(view, 5, at::kFloat, at::kBFloat16);
    EXPECT_EQ(other_group_->statistics().num_calls, kNumUnits - 1);  // one unit is empty
  }
}

TEST_F(UnitViews, StaleReadsAndWritesOfReadersAreRefused) {
  for (const bool shared : {false, true}) {
    ShardedUnits owner(*group_, kUnitCounts, options(at::kFloat, at::kFloat, shared));
    ShardedUnits view(*other_group_, owner, options(at::kFloat, at::kBFloat16, shared));
    EXPECT_THROW(view.begin_update(), std::logic_error);
    owner.begin_update();
    EXPECT_THROW(owner.begin_update(), std::logic_error);
    EXPECT_THROW(owner.acquire(0), std::logic_error);
    EXPECT_THROW(view.acquire(0), std::logic_error);
    EXPECT_THROW(view.refresh(), std::logic_error);
    owner.refresh();
    EXPECT_THROW(view.acquire(0), std::logic_error);  // not refreshed after its owner
    view.refresh();
    view.acquire(0);
    EXPECT_THROW(owner.begin_update(), std::logic_error);  // a view reads
    view.release(0);
    owner.begin_update();
    owner.refresh();
    if (shared) {
      EXPECT_THROW(owner.refresh(), std::logic_error);  // the shards were written unannounced
    } else {
      owner.refresh();
    }
  }
}

TEST_F(UnitViews, AViewThatDiesWhileItHoldsAUnitReleasesIt) {
  ShardedUnits owner(*group_, kUnitCounts, options(at::kFloat, at::kFloat, false));
  {
    ShardedUnits view(*other_group_, owner, options(at::kFloat, at::kBFloat16, false));
    view.acquire(0);
  }
  owner.begin_update();
  owner.refresh();
}

TEST_F(UnitViews, RefusesViewsThatDisagreeWithTheirOwner) {
  ShardedUnits owner(*group_, kUnitCounts, options(at::kFloat, at::kFloat, false));
  ShardedUnits shared(*group_, kUnitCounts, options(at::kFloat, at::kFloat, true));
  EXPECT_THROW(ShardedUnits(*group_, owner, options(at::kDouble, at::kFloat, false)),
               std::logic_error);
  EXPECT_THROW(ShardedUnits(*group_, owner, options(at::kFloat, at::kFloat, true)),
               std::logic_error);
  EXPECT_THROW(ShardedUnits(*group_, shared, options(at::kFloat, at::kFloat, false)),
               std::logic_error);
  if (alone_) return;  // there is no other group
  const std::unique_ptr<Collectives> self = make_self_collectives();
  EXPECT_THROW(ShardedUnits(*self, owner, options(at::kFloat, at::kFloat, false)),
               std::logic_error);
  EXPECT_THROW(ShardedUnits(*self, kUnitCounts, options(at::kFloat, at::kFloat, true)),
               std::logic_error);
}

}  // namespace
}  // namespace vax::dist
