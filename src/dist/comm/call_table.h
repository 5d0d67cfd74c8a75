// What one rank tells the others about its calls: for each group the last calls that it has
// started, and in which it waits. Plain values that travel between the watchdogs (base/wire.h). No
// MPI, no clocks.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

namespace vax::dist {

// The same group on every rank that belongs to it. See call_log.h.
struct GroupKey {
  std::string name;
  std::vector<int> members;  // ranks of the world, ascending in the group's order
  int64_t ordinal = 1;       // among the groups of this name and these members, from 1
  static auto wire_fields(auto& self) { return std::tie(self.name, self.members, self.ordinal); }
  bool operator==(const GroupKey&) const = default;
};

struct CallSummary {
  int64_t sequence = 0;  // in its group, from 1
  std::string operation;
  int64_t count = 0;  // elements; 0 where ranks may differ
  int64_t num_bytes = 0;
  std::string place;
  bool is_done = false;
  double waiting_s = -1;  // below zero: not waiting
  bool is_waiting() const { return waiting_s >= 0; }
  static auto wire_fields(auto& self) {
    return std::tie(self.sequence, self.operation, self.count, self.num_bytes, self.place,
                    self.is_done, self.waiting_s);
  }
  bool operator==(const CallSummary&) const = default;
};

struct GroupTable {
  GroupKey key;
  int64_t started = 0, done = 0;   // highest sequence numbers
  std::vector<CallSummary> calls;  // ascending in sequence; the last one started is among them
  static auto wire_fields(auto& self) {
    return std::tie(self.key, self.started, self.done, self.calls);
  }
  bool operator==(const GroupTable&) const = default;
};

struct RankTable {
  int rank = 0;
  std::string place;  // now
  std::vector<GroupTable> groups;
  static auto wire_fields(auto& self) { return std::tie(self.rank, self.place, self.groups); }
  bool operator==(const RankTable&) const = default;
};

// "0 2 3", "0-7".
std::string ranks_text(const std::vector<int>& ranks);

}  // namespace vax::dist
