#include "dist/shard/schedule.h"

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace vax::dist {
namespace {

constexpr int kNoSlot = -1;
constexpr size_t kNever = std::numeric_limits<size_t>::max();

class Planner {
 public:
  Planner(const std::vector<UnitEvent>& events, const std::vector<int64_t>& unit_counts,
          const ScheduleOptions& options);
  Schedule plan();

 private:
  void check_events() const;
  void place_residents();
  // Position of the first acquire of `unit` at or after `position`; positions of the next, equal
  // step follow this one's.
  size_t next_use(int unit, size_t position) const;
  // A slot for `unit` that is free, or whose unit is used later than `use`; kNoSlot if there is
  // none.
  int find_slot(int unit, size_t position, size_t use) const;
  void gather(int unit, int slot);
  void acquire(int unit, size_t position);
  void prefetch_after(size_t position);
  void add(ScheduleAction action, int unit, int slot);

  const std::vector<UnitEvent>& events_;
  const std::vector<int64_t>& unit_counts_;
  const ScheduleOptions& options_;
  std::vector<std::vector<size_t>> uses_;  // of each unit, ascending
  std::vector<int> unit_in_;               // of each slot
  std::vector<int> slot_of_;               // of each unit
  std::vector<bool> held_;                 // of each unit
  Schedule schedule_;
};

Planner::Planner(const std::vector<UnitEvent>& events, const std::vector<int64_t>& unit_counts,
                 const ScheduleOptions& options)
    : events_(events),
      unit_counts_(unit_counts),
      options_(options),
      uses_(unit_counts.size()),
      slot_of_(unit_counts.size(), kNoSlot),
      held_(unit_counts.size(), false) {
  VAX_CHECK(options.num_slots >= 1, "a schedule with ", options.num_slots, " slots");
  VAX_CHECK(options.prefetch >= 0, "prefetch of ", options.prefetch, " units");
  check_events();
  for (size_t position = 0; position < events.size(); ++position)
    if (events[position].acquire) uses_[events[position].unit].push_back(position);
  place_residents();
  schedule_.num_slots = options.num_slots;
}

void Planner::check_events() const {
  std::vector<bool> held(unit_counts_.size(), false);
  int num_held = 0;
  for (const UnitEvent& event : events_) {
    VAX_CHECK(event.unit >= 0 && event.unit < static_cast<int>(unit_counts_.size()), "unit ",
              event.unit, " of ", unit_counts_.size());
    VAX_CHECK(held[event.unit] != event.acquire, "unit ", event.unit,
              event.acquire ? " is acquired twice" : " is released without acquire");
    held[event.unit] = event.acquire;
    num_held += event.acquire ? 1 : -1;
    VAX_CHECK(num_held <= options_.num_slots, "the step holds ", num_held, " units at once, with ",
              options_.num_slots, " slots");
  }
  VAX_CHECK(num_held == 0, num_held, " units are still held at the end of the step");
}

void Planner::place_residents() {
  VAX_CHECK(options_.residents.size() <= static_cast<size_t>(options_.num_slots),
            options_.residents.size(), " residents in ", options_.num_slots, " slots");
  unit_in_ = options_.residents;
  unit_in_.resize(static_cast<size_t>(options_.num_slots), kNoUnit);
  for (int slot = 0; slot < options_.num_slots; ++slot) {
    const int unit = unit_in_[slot];
    if (unit == kNoUnit) continue;
    VAX_CHECK(slot_of_.at(unit) == kNoSlot, "unit ", unit, " is resident twice");
    slot_of_[unit] = slot;
  }
}

size_t Planner::next_use(int unit, size_t position) const {
  const std::vector<size_t>& uses = uses_[unit];
  if (uses.empty()) return kNever;
  const auto next = std::lower_bound(uses.begin(), uses.end(), position);
  return next == uses.end() ? uses.front() + events_.size() : *next;
}

int Planner::find_slot(int unit, size_t position, size_t use) const {
  if (unit < options_.num_slots && unit_in_[unit] == kNoUnit) return unit;
  int best = kNoSlot;
  size_t farthest = use;
  for (int slot = 0; slot < options_.num_slots; ++slot) {
    const int resident = unit_in_[slot];
    if (resident == kNoUnit) return slot;
    if (held_[resident]) continue;
    const size_t next = next_use(resident, position);
    if (next > farthest) {
      best = slot;
      farthest = next;
    }
  }
  return best;
}

void Planner::gather(int unit, int slot) {
  if (const int displaced = unit_in_[slot]; displaced != kNoUnit) {
    add(ScheduleAction::kFree, displaced, slot);
    slot_of_[displaced] = kNoSlot;
  }
  unit_in_[slot] = unit;
  slot_of_[unit] = slot;
  schedule_.gathered_elements += unit_counts_[unit];
  add(ScheduleAction::kGather, unit, slot);
}

void Planner::acquire(int unit, size_t position) {
  if (slot_of_[unit] == kNoSlot) {
    const int slot = find_slot(unit, position, position);
    VAX_CHECK(slot != kNoSlot, "no slot for unit ", unit);
    gather(unit, slot);
  }
  held_[unit] = true;
}

// In the order of their uses; the first for which nothing can make room ends it, because what is
// used still later can displace even less.
void Planner::prefetch_after(size_t position) {
  std::vector<int> ahead;
  for (size_t next = position + 1; next < events_.size(); ++next) {
    if (static_cast<int>(ahead.size()) == options_.prefetch) return;
    const int unit = events_[next].unit;
    if (!events_[next].acquire || held_[unit]) continue;
    if (std::find(ahead.begin(), ahead.end(), unit) != ahead.end()) continue;
    ahead.push_back(unit);
    if (slot_of_[unit] != kNoSlot) continue;
    const int slot = find_slot(unit, position + 1, next);
    if (slot == kNoSlot) return;
    gather(unit, slot);
  }
}

void Planner::add(ScheduleAction action, int unit, int slot) {
  schedule_.entries.push_back({action, unit, slot});
}

Schedule Planner::plan() {
  for (size_t position = 0; position < events_.size(); ++position) {
    const int unit = events_[position].unit;
    if (events_[position].acquire) {
      acquire(unit, position);
      prefetch_after(position);  // before the wait for this unit: both are then under way
      add(ScheduleAction::kUse, unit, slot_of_[unit]);
    } else {
      held_[unit] = false;
      add(ScheduleAction::kRelease, unit, slot_of_[unit]);
    }
  }
  return std::move(schedule_);
}

const char* name_of(ScheduleAction action) {
  switch (action) {
    case ScheduleAction::kGather:
      return "gather ";
    case ScheduleAction::kUse:
      return "use    ";
    case ScheduleAction::kRelease:
      return "release";
    case ScheduleAction::kFree:
      return "free   ";
  }
  VAX_CHECK(false, "unknown action ", static_cast<int>(action));
}

}  // namespace

std::vector<UnitEvent> unit_events(const std::vector<int>& uses, std::optional<Nesting> nesting) {
  std::vector<UnitEvent> events;
  for (size_t i = 0; i < uses.size(); ++i) {
    events.push_back({uses[i], true});
    if (nesting && uses[i] == nesting->outer && i + 1 < uses.size() &&
        uses[i + 1] == nesting->inner) {
      ++i;
      events.push_back({nesting->inner, true});
      events.push_back({nesting->inner, false});
      events.push_back({nesting->outer, false});
    } else {
      events.push_back({uses[i], false});
    }
  }
  return events;
}

Schedule make_schedule(const std::vector<UnitEvent>& events,
                       const std::vector<int64_t>& unit_counts, const ScheduleOptions& options) {
  return Planner(events, unit_counts, options).plan();
}

std::string to_string(const Schedule& schedule, const std::vector<std::string>& unit_names) {
  std::string lines;
  for (const ScheduleEntry& entry : schedule.entries)
    lines +=
        cat(name_of(entry.action), "  slot ", entry.slot, "  ", unit_names.at(entry.unit), "\n");
  return lines;
}

}  // namespace vax::dist
