// What a layout costs, worked out by hand for small units. That runs cost the same is tested where
// there are ranks (tests/mpi).
#include "dist/shard/sharding_plan.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace vax::dist {
namespace {

// Half a GiB of 4-byte elements.
constexpr int64_t kLarge = int64_t{1} << 27;
const std::vector<int64_t> kUnits = {kLarge, kLarge - 1, kLarge - 2, kLarge, kLarge, 10};
const std::vector<int> kSweeps = {0, 1, 2, 3, 4, 3, 2, 1, 0};

std::vector<int64_t> slots_of(int group_size, const ShardedUnitsOptions& options) {
  return plan_slots(kUnits, group_size, options).slot_counts;
}

using Counts = std::vector<int64_t>;

TEST(SlotPlan, HasSlotsForTheUnitsInUseAndUnderWay) {
  EXPECT_EQ(slots_of(2, {.prefetch = 0}), Counts(1, kLarge));
  EXPECT_EQ(slots_of(2, {.prefetch = 1}), Counts(2, kLarge));
  EXPECT_EQ(slots_of(2, {.prefetch = 3}), Counts(4, kLarge));
  EXPECT_EQ(slots_of(2, {.prefetch = 0, .held_at_once = 2}), Counts(2, kLarge));
  EXPECT_EQ(slots_of(2, {.prefetch = 2, .held_at_once = 2}), Counts(3, kLarge));
}

TEST(SlotPlan, SpendsTheBudgetOnMoreSlotsOrOnOneForEachUnit) {
  const Counts own = {kLarge, kLarge, kLarge - 2, kLarge, kLarge, 10};  // padded for two ranks
  EXPECT_EQ(slots_of(2, {.residency_gib = 0.4}), Counts(2, kLarge));
  EXPECT_EQ(slots_of(2, {.residency_gib = 1.2}), Counts(4, kLarge));
  EXPECT_EQ(slots_of(2, {.residency_gib = 1.6}), own);
  EXPECT_EQ(slots_of(2, {.gather_dtype = at::kBFloat16, .residency_gib = 0.8}), own);
  EXPECT_EQ(slots_of(2, {.replicate = true}), own);
  EXPECT_TRUE(plan_slots(kUnits, 2, {.replicate = true}).own_slots);
  EXPECT_FALSE(plan_slots(kUnits, 2, {}).own_slots);
}

// Without a budget too, when the slots of the largest size would take as much.
TEST(SlotPlan, NeverTakesMoreThanAllUnitsTogether) {
  const Counts units = {1000, 8, 8, 8};
  EXPECT_EQ(plan_slots(units, 2, {.prefetch = 0}).slot_counts, Counts(1, 1000));
  EXPECT_EQ(plan_slots(units, 2, {.prefetch = 1}).slot_counts, units);
}

TEST(SlotPlan, OneRankAndANodeNeedNoSlotsForWhatTheyHave) {
  for (const bool node_shared : {false, true}) {
    const SlotPlan same = plan_slots(kUnits, 1, {.node_shared = node_shared});
    EXPECT_TRUE(same.views_shards && same.slot_counts.empty());
    const SlotPlan cast =
        plan_slots(kUnits, 1, {.gather_dtype = at::kBFloat16, .node_shared = node_shared});
    EXPECT_TRUE(cast.own_slots && !cast.node_cast && !cast.views_shards);
    EXPECT_EQ(cast.slot_counts, kUnits);
  }
  const SlotPlan same = plan_slots(kUnits, 4, {.node_shared = true});
  EXPECT_TRUE(same.views_shards && !same.node_cast && same.slot_counts.empty());
  const SlotPlan cast = plan_slots(kUnits, 4, {.gather_dtype = at::kBFloat16, .node_shared = true});
  EXPECT_TRUE(cast.node_cast && !cast.views_shards && cast.slot_counts.empty());
}

TEST(ShardingPlan, CountsBytesWithThePaddingOfUnevenUnits) {
  const std::vector<int64_t> units = {100, 50, 51, 0};
  const ShardingPlan plan = plan_units(units, 4, {.gather_dtype = at::kBFloat16, .prefetch = 0},
                                       unit_events({0, 1, 3, 2, 1}));
  EXPECT_EQ(plan.num_slots, 1);
  EXPECT_EQ(plan.shard_bytes, (25 + 13 + 13) * 4);
  EXPECT_EQ(plan.slot_bytes, 100 * 2);
  EXPECT_EQ(plan.first_gathered_bytes, 3 * (25 + 13 + 13 + 13) * 2);
  EXPECT_EQ(plan.first.gathered_elements, 4 * (25 + 13 + 13 + 13));
  EXPECT_EQ(plan.steady_gathered_bytes, plan.first_gathered_bytes);
}

TEST(ShardingPlan, SteadyStepsStartFromWhatTheOneBeforeLeaves) {
  const std::vector<int64_t> units(5, 8);
  const std::vector<UnitEvent> events = unit_events(kSweeps);
  const ShardingPlan streamed = plan_units(units, 2, {.prefetch = 0}, events);
  EXPECT_EQ(streamed.first_gathered_bytes, 9 * 16);
  EXPECT_EQ(streamed.steady_gathered_bytes,
            8 * 16);  // the embedding ends one step, begins the next
  const ShardingPlan kept = plan_units(units, 2, {.replicate = true}, events);
  EXPECT_EQ(kept.first_gathered_bytes, 5 * 16);
  EXPECT_EQ(kept.steady_gathered_bytes, 0);
  EXPECT_EQ(kept.steady.entries.size(), events.size());
}

TEST(ShardingPlan, NodeSharedUnitsAreNeverGathered) {
  const std::vector<int64_t> units = {10, 7};
  const auto plan = [&](at::ScalarType gathered) {
    return plan_units(units, 2, {.gather_dtype = gathered, .node_shared = true},
                      unit_events({0, 1}));
  };
  EXPECT_EQ(plan(at::kFloat).shard_bytes, (5 + 4) * 4);
  EXPECT_EQ(plan(at::kFloat).slot_bytes, 0);
  EXPECT_EQ(plan(at::kBFloat16).slot_bytes, (5 + 4) * 2);
  EXPECT_EQ(plan(at::kBFloat16).first_gathered_bytes, 0);
  EXPECT_TRUE(plan(at::kBFloat16).first.entries.empty());
}

TEST(GradientPlan, CountsShardsBuffersAndWhatIsSent) {
  const std::vector<int64_t> units = {10, 7};
  const std::vector<int> releases = {1, 0, 0};
  const GradientPlan sent = plan_gradients(units, 2, false, releases);
  EXPECT_EQ(sent.shard_bytes, (5 + 4) * 4);
  EXPECT_EQ(sent.buffer_bytes, 2 * (10 + 5) * 4);
  EXPECT_EQ(sent.reduced_bytes, (4 + 5 + 5) * 4);
  const GradientPlan shared = plan_gradients(units, 2, true, releases);
  EXPECT_EQ(shared.buffer_bytes, 3 * 10 * 4);
  EXPECT_EQ(shared.reduced_bytes, 0);
  const GradientPlan alone = plan_gradients(units, 1, true, releases);
  EXPECT_EQ(alone.shard_bytes, 17 * 4);
  EXPECT_EQ(alone.buffer_bytes + alone.reduced_bytes, 0);
}

TEST(ShardingPlan, RefusesWhatMakesNoSense) {
  EXPECT_THROW(plan_slots({4}, 2, {.gather_dtype = at::kInt}), std::logic_error);
  EXPECT_THROW(plan_slots({-4}, 2, {}), std::logic_error);
  EXPECT_THROW(plan_slots({4}, 2, {.residency_gib = -1}), std::logic_error);
  EXPECT_THROW(plan_slots({4}, 2, {.prefetch = -1}), std::logic_error);
  EXPECT_THROW(plan_slots({4}, 2, {.held_at_once = 0}), std::logic_error);
  const std::vector<UnitEvent> nested = unit_events({0, 1}, Nesting{0, 1});
  EXPECT_THROW(plan_units({4, 4}, 2, {.prefetch = 0}, nested), std::logic_error);
  EXPECT_NO_THROW(plan_units({4, 4}, 2, {.prefetch = 0, .held_at_once = 2}, nested));
}

}  // namespace
}  // namespace vax::dist
