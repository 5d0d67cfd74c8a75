// The static schedule of unit uses in one step. The order in which a step asks for the weights of
// each unit is known before it starts (forward 1, backward 1, forward 2, backward 2 over every
// micro-batch), so what is gathered when, what stays and what makes room is decided once, here,
// without MPI. Residency follows Belady's rule: when a slot is needed, the resident unit whose next
// use lies farthest ahead goes; at the turning points of the sweeps that keeps what comes next.
//
// Invariants:
// - a unit is resident from its kGather to its kFree, and a held one (acquired, not yet released)
//   is never freed;
// - what is gathered ahead never displaces a unit that is used sooner, so that no gather is wasted;
// - the schedule is a pure function of its arguments: every rank makes the same one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace vax::dist {

// A step seen from its units: the weights of `unit` are needed from its acquire to its release.
// Uses of different units may overlap.
struct UnitEvent {
  int unit;
  bool acquire;  // false: release
};

// A use of `inner` that directly follows one of `outer` lies inside it: a head that is tied to the
// embedding needs both.
struct Nesting {
  int outer, inner;
};
// The events of units that are used in the order of `uses`, one after another except for `nesting`.
std::vector<UnitEvent> unit_events(const std::vector<int>& uses,
                                   std::optional<Nesting> nesting = std::nullopt);

enum class ScheduleAction { kGather, kUse, kRelease, kFree };

struct ScheduleEntry {
  ScheduleAction action;  // kGather = start gathering into the slot; kUse waits for it
  int unit;
  int slot;
};

inline constexpr int kNoUnit = -1;

struct ScheduleOptions {
  int num_slots = 2;  // units that fit at once; all slots have the size of the largest unit
  // How many distinct units ahead of the current use are gathered already. As many as fit beside
  // the held ones: a gather that overlaps with computing is preferred to one that is saved.
  int prefetch = 1;
  // What lies in each slot when the step begins, kNoUnit where nothing does; empty = nothing.
  std::vector<int> residents;
};

struct Schedule {
  std::vector<ScheduleEntry> entries;
  int num_slots = 0;
  int64_t gathered_elements = 0;
};

// The next step is expected to be like this one: what is used early in it counts as used after the
// last use of this one, and what is resident at the end stays. A unit goes into the slot with its
// own number when that is free, so that with a slot for every unit slot and unit agree.
// For units of equal size the number of gathers is the least that any schedule with these slots and
// this prefetch can have.
// THROWS std::logic_error: a unit outside [0, unit_counts.size()), a nested acquire of one unit, a
// release without acquire, a unit still held at the end, more units held at once than slots.
Schedule make_schedule(const std::vector<UnitEvent>& events,
                       const std::vector<int64_t>& unit_counts, const ScheduleOptions& options);

// One line per entry, for people.
std::string to_string(const Schedule& schedule, const std::vector<std::string>& unit_names);

}  // namespace vax::dist
