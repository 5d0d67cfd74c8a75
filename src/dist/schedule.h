// The static schedule of unit uses in one step. The order in which a step asks for the weights of
// each unit is known before it starts (forward 1, backward 1, forward 2, backward 2 over every
// micro-batch), so what is gathered when, what stays and what is freed is decided once, here,
// without MPI. Residency follows Belady's rule: when a slot is needed, the resident unit whose next
// use lies farthest ahead goes; at the turning points of the sweeps that keeps what comes next.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vax::dist {

enum class ScheduleAction { kGather, kUse, kFree };

struct ScheduleEntry {
  ScheduleAction action;
  int unit;
  int slot;
};

struct Schedule {
  std::vector<ScheduleEntry> entries;  // kGather = start gathering; kUse waits for it
  int num_slots = 0;
  int64_t gathered_elements = 0;
};

// `uses`: units in the order in which they are used, several times each. `num_slots` units fit at
// once (all slots have the size of the largest unit). `prefetch`: how many distinct units ahead of
// the current use a gather may start, as long as a slot is free by then. The schedule is cyclic:
// what is resident at the end is freed (the optimizer changes the weights between steps unless
// `keep_across_steps`). REQUIRES num_slots >= 1; units of `uses` in [0, num_units).
Schedule make_schedule(const std::vector<int>& uses, const std::vector<int64_t>& unit_counts,
                       int num_slots, int prefetch);

// One line per entry, for people.
std::string to_string(const Schedule& schedule, const std::vector<std::string>& unit_names);

}  // namespace vax::dist
