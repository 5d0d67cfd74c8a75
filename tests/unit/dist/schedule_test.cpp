// The schedule against a search over all schedules, and its invariants, on random small steps and
// on the sweeps that training makes.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/philox.h"
#include "dist/shard/schedule.h"

namespace vax::dist {
namespace {

using Set = unsigned;  // of units, one bit each

bool contains(Set set, int unit) { return (set >> unit) & 1u; }

// What must be resident when event `position` acquires: held units, the acquired one, and
// the next `prefetch` distinct others as far as slots reach.
Set required_at(const std::vector<UnitEvent>& events, size_t position, Set held, int num_slots,
                int prefetch) {
  Set required = held | 1u << events[position].unit;
  Set ahead = 0;
  for (size_t i = position + 1; i < events.size() && std::popcount(ahead) < prefetch; ++i) {
    const int unit = events[i].unit;
    if (!events[i].acquire || contains(held | 1u << events[position].unit, unit)) continue;
    ahead |= 1u << unit;
    if (std::popcount(required | ahead) <= num_slots) required |= 1u << unit;
  }
  return required;
}

// Fewest gathers by dynamic programming over every set of residents that fits the slots.
int fewest_gathers(const std::vector<UnitEvent>& events, int num_units, int num_slots, int prefetch,
                   Set residents) {
  std::map<Set, int> cost{{residents, 0}};
  Set held = 0;
  for (size_t position = 0; position < events.size(); ++position) {
    if (!events[position].acquire) {
      held &= ~(1u << events[position].unit);
      continue;
    }
    const Set required = required_at(events, position, held, num_slots, prefetch);
    held |= 1u << events[position].unit;
    std::map<Set, int> next;
    for (Set after = 0; after < (1u << num_units); ++after) {
      if (std::popcount(after) > num_slots || (after & required) != required) continue;
      for (const auto& [before, gathers] : cost) {
        const int total = gathers + std::popcount(after & ~before);
        const auto [entry, is_new] = next.try_emplace(after, total);
        entry->second = std::min(entry->second, total);
      }
    }
    cost = std::move(next);
  }
  int best = std::numeric_limits<int>::max();
  for (const auto& [set, gathers] : cost) best = std::min(best, gathers);
  return best;
}

// Random acquires and releases of at most `max_held` units at once.
std::vector<UnitEvent> random_events(uint32_t seed, int num_units, int num_uses, int max_held) {
  std::vector<UnitEvent> events;
  std::vector<int> held;
  uint32_t counter = 0;
  const auto draw = [&](int n) {
    return static_cast<int>(philox4x32({counter++, seed, 0, 0}, philox_key(1, 2))[0] %
                            static_cast<uint32_t>(n));
  };
  const auto release = [&](size_t i) {
    events.push_back({held[i], false});
    held.erase(held.begin() + static_cast<ptrdiff_t>(i));
  };
  for (int use = 0; use < num_uses; ++use) {
    while (static_cast<int>(held.size()) == max_held || (!held.empty() && draw(2) == 0))
      release(static_cast<size_t>(draw(static_cast<int>(held.size()))));
    int unit = draw(num_units);
    while (std::find(held.begin(), held.end(), unit) != held.end()) unit = (unit + 1) % num_units;
    events.push_back({unit, true});
    held.push_back(unit);
  }
  while (!held.empty()) release(0);
  return events;
}

int64_t count_of(const Schedule& schedule, ScheduleAction action) {
  return std::count_if(schedule.entries.begin(), schedule.entries.end(),
                       [action](const ScheduleEntry& entry) { return entry.action == action; });
}

// Executes the schedule on slots and checks each entry against the events.
void check_execution(const std::vector<UnitEvent>& events, const Schedule& schedule,
                     std::vector<int> slots) {
  slots.resize(static_cast<size_t>(schedule.num_slots), kNoUnit);
  std::set<int> held;
  size_t position = 0;
  for (const ScheduleEntry& entry : schedule.entries) {
    ASSERT_GE(entry.slot, 0);
    ASSERT_LT(entry.slot, schedule.num_slots);
    int& in_slot = slots[entry.slot];
    if (entry.action == ScheduleAction::kGather) {
      ASSERT_EQ(in_slot, kNoUnit) << "gathered into an occupied slot";
      ASSERT_EQ(std::count(slots.begin(), slots.end(), entry.unit), 0) << "gathered twice";
      in_slot = entry.unit;
      continue;
    }
    ASSERT_EQ(in_slot, entry.unit) << "not resident";
    if (entry.action == ScheduleAction::kFree) {
      ASSERT_EQ(held.count(entry.unit), 0u) << "freed while held";
      in_slot = kNoUnit;
      continue;
    }
    ASSERT_LT(position, events.size());
    ASSERT_EQ(entry.unit, events[position].unit);
    ASSERT_EQ(entry.action == ScheduleAction::kUse, events[position].acquire);
    if (events[position].acquire)
      held.insert(entry.unit);
    else
      held.erase(entry.unit);
    ++position;
  }
  ASSERT_EQ(position, events.size());
}

size_t next_use(const std::vector<UnitEvent>& events, int unit, size_t position) {
  while (position < events.size() && !(events[position].acquire && events[position].unit == unit))
    ++position;
  return position;
}

// Whenever a unit makes room for another, the other is used first.
void check_displacements(const std::vector<UnitEvent>& events, const Schedule& schedule) {
  size_t position = 0;
  for (size_t i = 0; i < schedule.entries.size(); ++i) {
    const ScheduleEntry& entry = schedule.entries[i];
    if (entry.action == ScheduleAction::kUse || entry.action == ScheduleAction::kRelease)
      ++position;
    if (entry.action != ScheduleAction::kFree) continue;
    const ScheduleEntry& gathered = schedule.entries[i + 1];
    ASSERT_EQ(gathered.action, ScheduleAction::kGather);
    ASSERT_LT(next_use(events, gathered.unit, position),
              next_use(events, entry.unit, position) + 1);
    ASSERT_LT(next_use(events, gathered.unit, position), events.size()) << "gathered for nothing";
  }
}

TEST(Schedule, NeedsAsFewGathersAsAnySchedule) {
  const int num_units = 5;
  for (uint32_t seed = 0; seed < 60; ++seed)
    for (int num_slots = 1; num_slots <= 4; ++num_slots)
      for (int prefetch = 0; prefetch <= 2; ++prefetch) {
        SCOPED_TRACE("seed " + std::to_string(seed) + ", slots " + std::to_string(num_slots) +
                     ", prefetch " + std::to_string(prefetch));
        const std::vector<UnitEvent> events =
            random_events(seed, num_units, 14, std::min(2, num_slots));
        const std::vector<int> residents = seed % 2 ? std::vector<int>{3} : std::vector<int>{};
        const Schedule schedule = make_schedule(events, std::vector<int64_t>(num_units, 10),
                                                {num_slots, prefetch, residents});
        check_execution(events, schedule, residents);
        check_displacements(events, schedule);
        if (testing::Test::HasFatalFailure()) return;
        const int fewest =
            fewest_gathers(events, num_units, num_slots, prefetch, seed % 2 ? 1u << 3 : 0u);
        ASSERT_EQ(count_of(schedule, ScheduleAction::kGather), fewest);
        ASSERT_EQ(schedule.gathered_elements, 10 * fewest);
      }
}

// Embedding, blocks, head forward; blocks backward; `passes` times.
std::vector<int> sweeps(int num_units, int passes) {
  std::vector<int> uses;
  for (int pass = 0; pass < passes; ++pass) {
    for (int unit = 0; unit < num_units; ++unit) uses.push_back(unit);
    for (int unit = num_units - 2; unit > 0; --unit) uses.push_back(unit);
  }
  return uses;
}

// The four sweeps of a Vaccine step: forward 1; backward 1, which ends at the first block; forward
// 2; backward 2. With a tied head the embedding is needed inside the head's uses.
std::vector<UnitEvent> vaccine_step(int num_units, bool tied) {
  const int head = num_units - 1;
  std::vector<int> uses;
  for (const int first : {1, 0}) {
    for (int unit = 0; unit <= head; ++unit) uses.push_back(unit);
    if (tied) uses.push_back(0);
    for (int unit = head - 1; unit >= first; --unit) uses.push_back(unit);
  }
  return unit_events(uses, tied ? std::optional(Nesting{head, 0}) : std::nullopt);
}

// What lies in the slots after the step, as a set and as the next step's residents.
std::vector<int> left_behind(const Schedule& schedule, std::vector<int> slots) {
  slots.resize(static_cast<size_t>(schedule.num_slots), kNoUnit);
  for (const ScheduleEntry& entry : schedule.entries) {
    if (entry.action == ScheduleAction::kGather) slots[entry.slot] = entry.unit;
    if (entry.action == ScheduleAction::kFree) slots[entry.slot] = kNoUnit;
  }
  return slots;
}

Set set_of(const std::vector<int>& residents) {
  Set set = 0;
  for (const int unit : residents)
    if (unit != kNoUnit) set |= 1u << unit;
  return set;
}

// Every number of slots that the step can do with, every prefetch, over three steps that start from
// what the one before has left. Slots are of one size, so that the number of gathers is least
// whatever the sizes of the units; their elements are what these gathers move.
TEST(Schedule, VaccineStepsNeedAsFewGathersAsAnySchedule) {
  const int num_units = 6;
  const std::vector<int64_t> unequal = {40, 7, 9, 8, 7, 31};
  for (const bool tied : {false, true})
    for (int num_slots = tied ? 2 : 1; num_slots <= num_units; ++num_slots)
      for (int prefetch = 0; prefetch <= 2; ++prefetch) {
        SCOPED_TRACE(std::string(tied ? "tied, slots " : "slots ") + std::to_string(num_slots) +
                     ", prefetch " + std::to_string(prefetch));
        const std::vector<UnitEvent> events = vaccine_step(num_units, tied);
        std::vector<int> residents;
        for (int step = 0; step < 3; ++step) {
          const Schedule schedule =
              make_schedule(events, unequal, {num_slots, prefetch, residents});
          ASSERT_NO_FATAL_FAILURE(check_execution(events, schedule, residents));
          ASSERT_EQ(count_of(schedule, ScheduleAction::kGather),
                    fewest_gathers(events, num_units, num_slots, prefetch, set_of(residents)));
          int64_t elements = 0;
          for (const ScheduleEntry& entry : schedule.entries)
            if (entry.action == ScheduleAction::kGather) elements += unequal[entry.unit];
          ASSERT_EQ(schedule.gathered_elements, elements);
          residents = left_behind(schedule, residents);
        }
      }
}

// In the sweeps of training every gather but the first is under way before the unit is asked for:
// something else is used between the start of the gather and its use.
TEST(Schedule, SweepsOverlapEveryGatherButTheFirst) {
  const int num_units = 8;
  for (int num_slots = 2; num_slots <= 6; ++num_slots) {
    const Schedule schedule = make_schedule(unit_events(sweeps(num_units, 4)),
                                            std::vector<int64_t>(num_units, 1), {num_slots, 1, {}});
    std::map<int, bool> overlapped;
    int num_late = 0;
    for (const ScheduleEntry& entry : schedule.entries) {
      if (entry.action == ScheduleAction::kGather) overlapped[entry.unit] = false;
      if (entry.action != ScheduleAction::kUse) continue;
      num_late += overlapped.count(entry.unit) && !overlapped[entry.unit];
      overlapped.erase(entry.unit);
      for (auto& [unit, value] : overlapped) value = true;
    }
    EXPECT_EQ(num_late, 1) << num_slots << " slots";
  }
}

// Each of the two turning points of a pass saves the gathers of the units that stay.
TEST(Schedule, TurningPointsReuseWhatIsResident) {
  const int num_units = 10;
  const auto gathers = [&](int num_slots) {
    return count_of(make_schedule(unit_events(sweeps(num_units, 1)),
                                  std::vector<int64_t>(num_units, 1), {num_slots, 1, {}}),
                    ScheduleAction::kGather);
  };
  EXPECT_EQ(gathers(2), 10 + 8 - 1);  // the last block is still there when the backward begins
  EXPECT_EQ(gathers(4), 10 + 8 - 3);
  EXPECT_EQ(gathers(10), 10);
}

TEST(Schedule, WhatIsResidentFromTheLastStepIsNotGathered) {
  const std::vector<UnitEvent> events = unit_events({0, 1, 2});
  const Schedule schedule = make_schedule(events, {5, 6, 7}, {3, 1, {0, 1, 2}});
  EXPECT_EQ(schedule.gathered_elements, 0);
  EXPECT_EQ(make_schedule(events, {5, 6, 7}, {3, 1, {0, kNoUnit, 2}}).gathered_elements, 6);
}

TEST(Schedule, SlotAndUnitAgreeWhenThereIsASlotForEach) {
  const std::vector<UnitEvent> events = unit_events({3, 1, 2, 0, 3, 1});
  for (const ScheduleEntry& entry : make_schedule(events, {1, 1, 1, 1}, {4, 2, {}}).entries)
    EXPECT_EQ(entry.slot, entry.unit);
}

TEST(UnitEvents, NestsTheInnerUnitOnlyDirectlyAfterTheOuterOne) {
  const std::vector<UnitEvent> events = unit_events({0, 1, 2, 0, 1, 0}, Nesting{2, 0});
  const std::vector<std::pair<int, bool>> expected = {
      {0, true},  {0, false}, {1, true}, {1, false}, {2, true}, {0, true},
      {0, false}, {2, false}, {1, true}, {1, false}, {0, true}, {0, false}};
  ASSERT_EQ(events.size(), expected.size());
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].unit, expected[i].first) << i;
    EXPECT_EQ(events[i].acquire, expected[i].second) << i;
  }
}

// The head's use holds it while the tied embedding is fetched: neither may displace the other.
TEST(Schedule, TiedHeadHoldsTwoUnits) {
  const std::vector<UnitEvent> events = unit_events({0, 1, 2, 3, 0, 2, 1}, Nesting{3, 0});
  const Schedule schedule = make_schedule(events, {1, 1, 1, 1}, {2, 1, {}});
  check_execution(events, schedule, {});
  EXPECT_THROW(make_schedule(events, {1, 1, 1, 1}, {1, 0, {}}), std::logic_error);
}

TEST(Schedule, RefusesEventsThatMakeNoSense) {
  const std::vector<int64_t> counts{1, 1};
  const ScheduleOptions options;
  EXPECT_THROW(make_schedule({{2, true}, {2, false}}, counts, options), std::logic_error);
  EXPECT_THROW(make_schedule({{-1, true}, {-1, false}}, counts, options), std::logic_error);
  EXPECT_THROW(make_schedule({{0, true}, {0, true}}, counts, options), std::logic_error);
  EXPECT_THROW(make_schedule({{0, false}}, counts, options), std::logic_error);
  EXPECT_THROW(make_schedule({{0, true}}, counts, options), std::logic_error);
  EXPECT_THROW(make_schedule({}, counts, {0, 1, {}}), std::logic_error);
  EXPECT_THROW(make_schedule({}, counts, {2, 1, {0, 0}}), std::logic_error);
  EXPECT_THROW(make_schedule({}, counts, {1, 1, {0, 1}}), std::logic_error);
}

TEST(Schedule, IsPrintedOneEntryPerLine) {
  const Schedule schedule = make_schedule(unit_events({0, 1}), {1, 1}, {1, 1, {}});
  EXPECT_EQ(to_string(schedule, {"embedding", "head"}),
            "gather   slot 0  embedding\n"
            "use      slot 0  embedding\n"
            "release  slot 0  embedding\n"
            "free     slot 0  embedding\n"
            "gather   slot 0  head\n"
            "use      slot 0  head\n"
            "release  slot 0  head\n");
}

}  // namespace
}  // namespace vax::dist
