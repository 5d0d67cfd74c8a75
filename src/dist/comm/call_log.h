// What this process does with other ranks: a record of every collective and every other wait for
// them, for the watchdog and for who reads its files. One log per process; the main thread writes,
// the watchdog's thread reads. A record costs a lock that is free nearly always, and no memory.
//
// A group of ranks is the same one on two ranks when name, members and ordinal agree: groups are
// made collectively, so the n-th of a name and members is the n-th everywhere. Its calls are
// numbered from 1, the same number for the same call on every rank.
//
// Invariants that are easy to break:
// - a rank that has started call n of a group has arrived there: what others wait for in call n is
//   its start, whatever the call stands for;
// - texts of groups, operations and places hold no tab and no line end (a record is a line of a
//   file).
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <iosfwd>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "dist/comm/call_table.h"

namespace vax::dist {

// Where in the program: a text of the caller and, within it, a static one.
class Place {
 public:
  // Keeps the first kMaxLength characters; tabs and line ends become spaces. Clears the phase.
  void set(std::string_view text);
  void set_phase(const char* phase) { phase_ = phase; }
  std::string text() const;  // "step 120, pass 1"

 private:
  static constexpr size_t kMaxLength = 63;
  std::array<char, kMaxLength + 1> text_{};
  const char* phase_ = nullptr;
};

struct CallRecord {
  using Time = std::chrono::steady_clock::time_point;

  uint64_t number = 0;              // in this process, from 1; 0: no record
  const GroupKey* group = nullptr;  // lives as long as the log
  int64_t sequence = 0;             // in the group, from 1
  const char* operation = "";
  int64_t count = 0, num_bytes = 0;
  Place place;
  Time started, waiting_since, done;  // Time() stands for never; waiting_since: of the last wait
  bool is_waiting = false;
};

// A wait that goes on. Two waits of one call differ in `since`.
struct Wait {
  uint64_t number = 0;  // of the call's record
  CallRecord::Time since;
  bool operator==(const Wait&) const = default;
};

class CallLog;

// One group on this rank. Calls start in it; Call keeps it alive.
class CallGroup {
 public:
  // `key` lives as long as `log`.
  CallGroup(std::shared_ptr<CallLog> log, const GroupKey& key) : log_(std::move(log)), key_(key) {}
  const GroupKey& key() const { return key_; }

 private:
  friend class Call;
  friend class CallLog;
  const std::shared_ptr<CallLog> log_;
  const GroupKey& key_;
  int64_t started_ = 0, done_ = 0;
  CallRecord last_;  // started; the ring may have dropped it
};

// One call, from its start to its end. Move-only; an empty one records nothing, so that groups
// without a log need no special case. Destroyed, it is done: a call that failed has ended too.
class Call {
 public:
  Call() = default;
  // Starts the group's next call. `operation`: a static text. `count` elements and bytes of the
  // whole call, equal on all ranks; 0 where they may differ. `group` null: an empty call.
  Call(std::shared_ptr<CallGroup> group, const char* operation, int64_t count, int64_t num_bytes)
      : Call(std::move(group), operation, count, num_bytes, false) {}
  // A call that blocks: its wait begins with it.
  static Call blocking(std::shared_ptr<CallGroup> group, const char* operation) {
    return Call(std::move(group), operation, 0, 0, true);
  }
  Call(Call&& other) noexcept
      : group_(std::exchange(other.group_, nullptr)), record_(std::move(other.record_)) {}
  Call& operator=(Call&& other) noexcept;
  ~Call() { done(); }

  // Between the two this thread can do nothing but wait. A wait may end before the call does.
  void wait_begins() noexcept;
  void wait_ends() noexcept;
  void done() noexcept;  // ends a wait too; nothing happens later

 private:
  Call(std::shared_ptr<CallGroup> group, const char* operation, int64_t count, int64_t num_bytes,
       bool waits);
  std::shared_ptr<CallGroup> group_;
  CallRecord record_;
};
static_assert(std::is_nothrow_move_constructible_v<Call>);

// Any thread.
class CallLog : public std::enable_shared_from_this<CallLog> {
 public:
  static constexpr size_t kNumRecords = 256;

  // `rank` of the world.
  static std::shared_ptr<CallLog> make(int rank);

  // The calls of a group of ranks of the world. COLLECTIVE in effect: the same groups in the same
  // order on all their members.
  std::shared_ptr<CallGroup> add_group(std::string name, std::vector<int> members);

  // Where the program is; calls that start from now on carry it.
  void set_place(std::string_view place);
  // Within the place, until the next one. REQUIRES a static text.
  void set_phase(const char* phase);

  std::vector<Wait> waits() const;  // that go on
  RankTable table() const;
  // The last kNumRecords calls, oldest first.
  std::vector<CallRecord> records() const;

 private:
  friend class Call;
  explicit CallLog(int rank);
  // REQUIRES the lock for all of them.
  // The times of `record`, where copies of it still are.
  void update(const CallRecord& record, CallGroup& group);
  void end_wait(CallRecord& record);
  GroupTable table_of(const CallGroup& group, CallRecord::Time now) const;

  const int rank_;
  mutable std::mutex mutex_;  // guards what follows, and the counters of the groups
  Place place_;
  uint64_t num_records_ = 0;
  std::array<CallRecord, kNumRecords> ring_;  // record n at (n - 1) % kNumRecords
  std::vector<CallRecord> waits_;             // those that go on; nearly always none or one
  std::vector<std::weak_ptr<CallGroup>> groups_;
  std::deque<GroupKey> keys_;  // of all groups there ever were: records name them
  std::map<std::pair<std::string, std::vector<int>>, int64_t> num_made_;
};

// The table of `records` for people: one line each, newest last. Times of day are local, taken
// from now_steady = now_system.
void write_records(std::ostream& out, const std::vector<CallRecord>& records,
                   CallRecord::Time now_steady, std::chrono::system_clock::time_point now_system);

}  // namespace vax::dist
