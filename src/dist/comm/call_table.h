// What one rank tells the others about its calls: for each group the last calls that it has
// started, and in which it waits. Plain values and their form as text, which travels between the
// watchdogs. No MPI, no clocks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vax::dist {

// The same group on every rank that belongs to it. See call_log.h.
struct GroupKey {
  std::string name;
  std::vector<int> members;  // ranks of the world, ascending in the group's order
  int64_t ordinal = 1;       // among the groups of this name and these members, from 1
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
  bool operator==(const CallSummary&) const = default;
};

struct GroupTable {
  GroupKey key;
  int64_t started = 0, done = 0;   // highest sequence numbers
  std::vector<CallSummary> calls;  // ascending in sequence; the last one started is among them
  bool operator==(const GroupTable&) const = default;
};

struct RankTable {
  int rank = 0;
  std::string place;  // now
  std::vector<GroupTable> groups;
  bool operator==(const RankTable&) const = default;
};

// Lines of fields between tabs.
std::string to_text(const RankTable& table);
// THROWS DataError when `text` does not come from to_text().
RankTable table_from_text(const std::string& text);

// "0 2 3", "0-7".
std::string ranks_text(const std::vector<int>& ranks);

}  // namespace vax::dist
