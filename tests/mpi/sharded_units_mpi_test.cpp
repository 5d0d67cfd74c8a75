// Gathered units against the whole they were cut from, for every placement and pair of types; the
// schedule against gathering on demand; deviations from the announced order.
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

// Large ones, so that the slots of most options are too few; one element, two, none; one that every
// group size up to 4 divides.
const std::vector<int64_t> kUnitCounts = {230, 1, 0, 240, 211, 2, 239, 97};
constexpr int kNumUnits = 8;
constexpr int64_t kLargest = 240;
constexpr int kHeldAtOnce = 2;  // step_events() has a tied head

at::Tensor whole_unit(int unit, int version) {
  return testing::unit_values(kUnitCounts[unit], unit, version);
}

void fill(ShardedUnits& units, int version) {
  testing::write_unit_values(units, version);
  units.refresh();
}

// What must come out: stored in the shard's type, then cast to the gathered one.
at::Tensor expected_unit(int unit, int version, const ShardedUnitsOptions& options) {
  return whole_unit(unit, version).to(options.shard_dtype).to(options.gather_dtype);
}

void expect_unit(const at::Tensor& actual, int unit, int version,
                 const ShardedUnitsOptions& options) {
  const at::Tensor expected = expected_unit(unit, version, options);
  ASSERT_EQ(actual.scalar_type(), options.gather_dtype);
  ASSERT_TRUE(at::equal(actual, expected)) << "unit " << unit << ", version " << version;
}

// Every event of a step, with each acquired unit checked.
void run_step(ShardedUnits& units, const std::vector<UnitEvent>& events, int version,
              const ShardedUnitsOptions& options) {
  for (const UnitEvent& event : events) {
    if (event.acquire)
      expect_unit(units.acquire(event.unit), event.unit, version, options);
    else
      units.release(event.unit);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

const std::vector<UnitEvent>& step_events() {
  static const std::vector<UnitEvent> events =
      unit_events({0, 1, 2, 3, 4, 5, 6, 7, 0, 6, 5, 4, 3, 2, 1,  //
                   0, 1, 2, 3, 4, 5, 6, 7, 0, 6, 5, 4, 3, 2, 1},
                  Nesting{7, 0});
  return events;
}

std::string describe(const ShardedUnitsOptions& options) {
  return std::string(at::toString(options.shard_dtype)) + " -> " +
         at::toString(options.gather_dtype) + (options.replicate ? ", replicated" : "") +
         ", prefetch " + std::to_string(options.prefetch) + ", residency " +
         std::to_string(options.residency_gib);
}

std::vector<ShardedUnitsOptions> all_options() {
  // Nothing kept; one slot more of floats, two of bf16; all units kept.
  const double one_slot_gib = kLargest * 4 / 0x1p30;
  std::vector<ShardedUnitsOptions> all;
  for (const auto& [shard, gather] :
       {std::pair(at::kFloat, at::kFloat), std::pair(at::kFloat, at::kBFloat16),
        std::pair(at::kBFloat16, at::kBFloat16), std::pair(at::kDouble, at::kFloat)}) {
    all.push_back({.shard_dtype = shard, .gather_dtype = gather, .replicate = true});
    for (const int prefetch : {0, 1, 3})
      for (const double residency : {0.0, one_slot_gib, 1.0})
        all.push_back({shard, gather, residency, prefetch, false, kHeldAtOnce});
  }
  return all;
}

TEST(Partition, CutsAUnitIntoEqualShardsWithPaddingAtTheEnd) {
  for (const int64_t count : {0, 1, 5, 12}) {
    int64_t next = 0;
    for (int rank = 0; rank < 4; ++rank) {
      const Partition part = make_partition(count, rank, 4);
      EXPECT_EQ(part.shard_count, (count + 3) / 4);
      EXPECT_EQ(part.begin, next);
      EXPECT_LE(part.end - part.begin, part.shard_count);
      next = part.end;
    }
    EXPECT_EQ(next, count);
  }
  EXPECT_THROW(make_partition(-1, 0, 1), std::logic_error);
  EXPECT_THROW(make_partition(4, 2, 2), std::logic_error);
}

TEST(ShardedUnits, GatheredEqualsWholeOnDemandAndByScheduleAndAfterRefresh) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  for (const ShardedUnitsOptions& options : all_options()) {
    SCOPED_TRACE(describe(options));
    ShardedUnits units(*group, kUnitCounts, options);
    for (int version = 0; version < 3; ++version) {
      fill(units, version);
      ASSERT_NO_FATAL_FAILURE(run_step(units, step_events(), version, options));
      units.begin_step(step_events());
      ASSERT_NO_FATAL_FAILURE(run_step(units, step_events(), version, options));
      units.begin_step(step_events());  // the same weights again: what is resident may stay
      ASSERT_NO_FATAL_FAILURE(run_step(units, step_events(), version, options));
    }
  }
}

TEST(ShardedUnits, GroupsOfASplitGatherTheirOwn) {
  const Communicator world = Communicator::world();
  const int color = world.rank() % 2;
  const std::unique_ptr<Collectives> group = world.split(color).make_collectives();
  const ShardedUnitsOptions options{.held_at_once = kHeldAtOnce};
  ShardedUnits units(*group, kUnitCounts, options);
  fill(units, 10 + color);
  units.begin_step(step_events());
  run_step(units, step_events(), 10 + color, options);
}

TEST(ShardedUnits, SlotsAreAlignedAndOfTheSizeThatTheBudgetAllows) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  const int64_t size = group->size();
  const double slot_gib = kLargest * 4 / 0x1p30;
  ShardedUnits streamed(*group, kUnitCounts, {.prefetch = 2});
  ShardedUnits keeping(*group, kUnitCounts, {.residency_gib = 1.5 * slot_gib, .prefetch = 0});
  ShardedUnits replicated(*group, kUnitCounts, {.replicate = true});
  ShardedUnits covered(*group, kUnitCounts, {.residency_gib = 4 * slot_gib});
  int64_t padded = 0;
  for (int unit = 0; unit < kNumUnits; ++unit) padded += replicated.partition(unit).shard_count;
  EXPECT_EQ(replicated.shard_bytes(), padded * 4);
  const bool gathers = size > 1;  // one rank uses its shards
  EXPECT_EQ(streamed.num_slots(), gathers ? 3 : 0);
  EXPECT_EQ(streamed.slot_bytes(), gathers ? 3 * kLargest * 4 : 0);
  EXPECT_EQ(keeping.slot_bytes(), gathers ? (1 + 1) * kLargest * 4 : 0);
  EXPECT_EQ(replicated.slot_bytes(), gathers ? padded * size * 4 : 0);
  EXPECT_EQ(covered.slot_bytes(), replicated.slot_bytes());
  for (int unit = 0; unit < kNumUnits; ++unit) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(streamed.acquire(unit).data_ptr()) % 64, 0u);
    streamed.release(unit);
  }
}

TEST(ShardedUnits, OneRankBorrowsTheShardOrKeepsACast) {
  const std::unique_ptr<Collectives> group = make_self_collectives();
  ShardedUnits same(*group, kUnitCounts, {});
  EXPECT_EQ(same.acquire(0).data_ptr(), same.shard(0).data_ptr());
  EXPECT_EQ(same.slot_bytes(), 0);
  const ShardedUnitsOptions options{.gather_dtype = at::kBFloat16};
  ShardedUnits cast(*group, kUnitCounts, options);
  fill(cast, 1);
  expect_unit(cast.acquire(0), 0, 1, options);
  cast.release(0);
  cast.shard(0).fill_(3);
  expect_unit(cast.acquire(0), 0, 1, options);  // the cached one until refresh()
  cast.release(0);
  cast.refresh();
  EXPECT_EQ(cast.acquire(0)[5].item<float>(), 3);
  cast.release(0);
}

// Eight equal units, so that slots are scarce.
const std::vector<int64_t> kEqualUnits(8, 101);

int64_t gathers_of_step(Collectives& group, bool scheduled, const std::vector<UnitEvent>& events) {
  ShardedUnits units(group, kEqualUnits, {.prefetch = 1});
  const int64_t before = group.statistics().num_calls;
  if (scheduled) units.begin_step(events);
  for (const UnitEvent& event : events)
    event.acquire ? void(units.acquire(event.unit)) : units.release(event.unit);
  return group.statistics().num_calls - before;
}

TEST(ShardedUnits, GathersExactlyWhatTheScheduleSays) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  if (group->size() == 1) return;  // nothing is gathered
  const std::vector<UnitEvent> events =
      unit_events({0, 1, 2, 3, 4, 5, 6, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7});
  const Schedule schedule = make_schedule(events, kEqualUnits, {2, 1, {}});
  EXPECT_EQ(gathers_of_step(*group, true, events) * 101, schedule.gathered_elements);
  EXPECT_GE(gathers_of_step(*group, false, events) * 101, schedule.gathered_elements);
}

// Bytes that the collectives count against the plan made without them, over steps that start with
// what the one before has left, and from the beginning again after an update.
TEST(ShardedUnits, TrafficAndMemoryAreThoseOfThePlan) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  for (const ShardedUnitsOptions& options : all_options()) {
    SCOPED_TRACE(describe(options));
    const ShardingPlan plan = plan_units(kUnitCounts, group->size(), options, step_events());
    ShardedUnits units(*group, kUnitCounts, options);
    EXPECT_EQ(units.num_slots(), plan.num_slots);
    EXPECT_EQ(units.slot_bytes(), plan.slot_bytes);
    EXPECT_EQ(units.shard_bytes(), plan.shard_bytes);
    const auto bytes_of_step = [&](int version) {
      const int64_t before = group->statistics().num_bytes;
      units.begin_step(step_events());
      run_step(units, step_events(), version, options);
      return group->statistics().num_bytes - before;
    };
    for (int version = 0; version < 2; ++version) {
      fill(units, version);
      EXPECT_EQ(bytes_of_step(version), plan.first_gathered_bytes);
      bytes_of_step(version);
      for (int step = 2; step < 5; ++step)
        EXPECT_EQ(bytes_of_step(version), plan.steady_gathered_bytes) << "step " << step;
    }
    const int64_t n = group->size();
    const int64_t element = static_cast<int64_t>(at::elementSize(options.gather_dtype));
    EXPECT_EQ(plan.first_gathered_bytes, plan.first.gathered_elements * element * (n - 1) / n);
  }
}

TEST(ShardedUnits, KeepsUnchangedUnitsAcrossSteps) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  if (group->size() == 1) return;  // nothing is gathered
  const ShardedUnitsOptions options{.replicate = true};
  ShardedUnits units(*group, kUnitCounts, options);
  fill(units, 4);
  units.begin_step(step_events());
  run_step(units, step_events(), 4, options);
  const int64_t calls = group->statistics().num_calls;
  EXPECT_EQ(calls, kNumUnits - 1);  // one unit is empty
  units.begin_step(step_events());
  run_step(units, step_events(), 4, options);
  EXPECT_EQ(group->statistics().num_calls, calls);
}

std::string message_of_acquire(ShardedUnits& units, int unit) {
  try {
    units.acquire(unit);
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "";
}

TEST(ShardedUnits, DeviationFromTheAnnouncedOrderNamesBothUnits) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  const ShardedUnitsOptions options{.gather_dtype = at::kBFloat16};
  ShardedUnits units(*group, kEqualUnits, options);
  units.begin_step(unit_events({3, 4, 5}));
  units.acquire(3);
  units.release(3);
  const std::string message = message_of_acquire(units, 5);
  EXPECT_NE(message.find("expected unit 4, actual unit 5"), std::string::npos) << message;
  EXPECT_THROW(units.begin_step(unit_events({0})), std::logic_error);
  units.refresh();  // gives the step up
  units.begin_step(unit_events({0}));
  units.acquire(0);
  units.release(0);
  units.acquire(7);  // the announced uses are over: on demand
  units.release(7);
}

TEST(ShardedUnits, HoldingAUnitLongerThanAnnouncedIsFound) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  ShardedUnits units(*group, kEqualUnits, {.gather_dtype = at::kBFloat16});
  units.begin_step(unit_events({0, 1, 2}));
  units.acquire(0);
  const std::string message = message_of_acquire(units, 1);
  EXPECT_NE(message.find("unit 0 is still held"), std::string::npos) << message;
  units.release(0);
}

TEST(ShardedUnits, RefusesNestedAcquiresOfOneUnitAndMoreThanItHasSlots) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  ShardedUnits units(*group, kEqualUnits, {.prefetch = 0, .held_at_once = 2});
  units.acquire(0);
  EXPECT_THROW(units.acquire(0), std::logic_error);
  EXPECT_THROW(units.release(1), std::logic_error);
  EXPECT_THROW(units.begin_update(), std::logic_error);
  EXPECT_THROW(units.refresh(), std::logic_error);
  EXPECT_THROW(units.begin_step({}), std::logic_error);
  units.acquire(1);
  if (group->size() > 1) {
    EXPECT_THROW(units.acquire(2), std::logic_error);
  }
  units.release(1);
  units.release(0);
}

TEST(ShardedUnits, RefusesTypesAndOptionsThatItCannotServe) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  EXPECT_THROW(ShardedUnits(*group, {4}, {.gather_dtype = at::kInt}), std::logic_error);
  EXPECT_THROW(ShardedUnits(*group, {-4}, {}), std::logic_error);
  EXPECT_THROW(ShardedUnits(*group, {4}, {.prefetch = -1}), std::logic_error);
  EXPECT_THROW(ShardedUnits(*group, {4}, {.residency_gib = -1}), std::logic_error);
  EXPECT_THROW(ShardedUnits(*group, {4}, {.held_at_once = 0}), std::logic_error);
}

TEST(ShardedUnits, UnitsWithoutElementsAreServedWithoutTraffic) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  ShardedUnits units(*group, {0, 0}, {});
  units.begin_step(unit_events({0, 1, 0}));
  for (const int unit : {0, 1, 0}) {
    EXPECT_EQ(units.acquire(unit).numel(), 0);
    units.release(unit);
  }
  EXPECT_EQ(group->statistics().num_calls, 0);
}

}  // namespace
}  // namespace vax::dist
