#include "dist/comm/call_log.h"

#include <algorithm>
#include <ctime>
#include <iomanip>
#include <ostream>
#include <sstream>

#include "base/error.h"

namespace vax::dist {
namespace {

using std::chrono::steady_clock;

// Calls of a group that travel in its table: enough to find two ranks that made different ones.
constexpr size_t kCallsPerTable = 8;
// More at once than any program has; beyond it the list grows.
constexpr size_t kWaitsReserved = 16;
constexpr CallRecord::Time kNever{};

double seconds(steady_clock::duration time) { return std::chrono::duration<double>(time).count(); }

CallSummary summary(const CallRecord& record, CallRecord::Time now) {
  return {.sequence = record.sequence,
          .operation = record.operation,
          .count = record.count,
          .num_bytes = record.num_bytes,
          .place = record.place.text(),
          .is_done = record.done != kNever,
          .waiting_s = record.is_waiting ? seconds(now - record.waiting_since) : -1};
}

const char* state_of(const CallRecord& record) {
  if (record.done != kNever) return "done";
  return record.is_waiting ? "waiting" : "started";
}

}  // namespace

void Place::set(std::string_view text) {
  const size_t length = std::min(text.size(), kMaxLength);
  std::transform(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(length), text_.begin(),
                 [](char c) { return c == '\t' || c == '\n' || c == '\r' ? ' ' : c; });
  text_[length] = '\0';
  phase_ = nullptr;
}

std::string Place::text() const {
  const std::string text = text_.data();
  if (phase_ == nullptr) return text;
  return text.empty() ? phase_ : cat(text, ", ", phase_);
}

Call::Call(std::shared_ptr<CallGroup> group, const char* operation, int64_t count,
           int64_t num_bytes, bool waits)
    : group_(std::move(group)) {
  if (!group_) return;
  record_.group = &group_->key_;
  record_.operation = operation;
  record_.count = count;
  record_.num_bytes = num_bytes;
  record_.started = steady_clock::now();
  record_.is_waiting = waits;
  if (waits) record_.waiting_since = record_.started;
  CallLog& log = *group_->log_;
  const std::lock_guard lock(log.mutex_);
  record_.place = log.place_;
  record_.number = ++log.num_records_;
  record_.sequence = ++group_->started_;
  group_->last_ = record_;
  log.ring_[(record_.number - 1) % CallLog::kNumRecords] = record_;
  if (waits) log.waits_.push_back(record_);
}

Call& Call::operator=(Call&& other) noexcept {
  if (this != &other) {
    done();
    group_ = std::exchange(other.group_, nullptr);
    record_ = std::move(other.record_);
  }
  return *this;
}

void Call::wait_begins() noexcept {
  if (!group_ || record_.is_waiting) return;
  record_.is_waiting = true;
  record_.waiting_since = steady_clock::now();
  CallLog& log = *group_->log_;
  const std::lock_guard lock(log.mutex_);
  log.waits_.push_back(record_);
  log.update(record_, *group_);
}

void Call::wait_ends() noexcept {
  if (!group_ || !record_.is_waiting) return;
  CallLog& log = *group_->log_;
  const std::lock_guard lock(log.mutex_);
  log.end_wait(record_);
  log.update(record_, *group_);
}

void Call::done() noexcept {
  if (!group_) return;
  record_.done = steady_clock::now();
  {
    CallLog& log = *group_->log_;
    const std::lock_guard lock(log.mutex_);
    log.end_wait(record_);
    group_->done_ = std::max(group_->done_, record_.sequence);
    log.update(record_, *group_);
  }
  group_.reset();
}

CallLog::CallLog(int rank) : rank_(rank) { waits_.reserve(kWaitsReserved); }

std::shared_ptr<CallLog> CallLog::make(int rank) {
  return std::shared_ptr<CallLog>(new CallLog(rank));
}

std::shared_ptr<CallGroup> CallLog::add_group(std::string name, std::vector<int> members) {
  const std::lock_guard lock(mutex_);
  const int64_t ordinal = ++num_made_[{name, members}];
  const GroupKey& key = keys_.emplace_back(
      GroupKey{.name = std::move(name), .members = std::move(members), .ordinal = ordinal});
  auto group = std::make_shared<CallGroup>(shared_from_this(), key);
  std::erase_if(groups_, [](const auto& other) { return other.expired(); });
  groups_.push_back(group);
  return group;
}

void CallLog::set_place(std::string_view place) {
  const std::lock_guard lock(mutex_);
  place_.set(place);
}

void CallLog::set_phase(const char* phase) {
  const std::lock_guard lock(mutex_);
  place_.set_phase(phase);
}

void CallLog::update(const CallRecord& record, CallGroup& group) {
  for (CallRecord* copy : {&ring_[(record.number - 1) % kNumRecords], &group.last_}) {
    if (copy->number != record.number) continue;
    copy->is_waiting = record.is_waiting;
    copy->waiting_since = record.waiting_since;
    copy->done = record.done;
  }
}

void CallLog::end_wait(CallRecord& record) {
  if (!record.is_waiting) return;
  record.is_waiting = false;
  std::erase_if(waits_, [&](const CallRecord& wait) { return wait.number == record.number; });
}

std::vector<Wait> CallLog::waits() const {
  const std::lock_guard lock(mutex_);
  std::vector<Wait> waits;
  for (const CallRecord& record : waits_) waits.push_back({record.number, record.waiting_since});
  return waits;
}

// The newest calls of the group in the ring, those that are waited for and the last one.
GroupTable CallLog::table_of(const CallGroup& group, CallRecord::Time now) const {
  std::map<int64_t, CallSummary> calls;
  for (size_t age = 0; age < kNumRecords && calls.size() < kCallsPerTable; ++age) {
    if (num_records_ <= age) break;
    const CallRecord& record = ring_[(num_records_ - 1 - age) % kNumRecords];
    if (record.group == &group.key_) calls.emplace(record.sequence, summary(record, now));
  }
  for (const CallRecord& wait : waits_)
    if (wait.group == &group.key_) calls.insert_or_assign(wait.sequence, summary(wait, now));
  if (group.last_.number > 0) calls.emplace(group.last_.sequence, summary(group.last_, now));
  GroupTable table{.key = group.key_, .started = group.started_, .done = group.done_};
  for (const auto& [sequence, call] : calls) table.calls.push_back(call);
  return table;
}

RankTable CallLog::table() const {
  const CallRecord::Time now = steady_clock::now();
  // Outlives the lock: it may have become the last owner of a group.
  std::vector<std::shared_ptr<CallGroup>> groups;
  const std::lock_guard lock(mutex_);
  RankTable table{.rank = rank_, .place = place_.text()};
  for (const std::weak_ptr<CallGroup>& weak : groups_) {
    groups.push_back(weak.lock());
    if (groups.back()) table.groups.push_back(table_of(*groups.back(), now));
  }
  return table;
}

std::vector<CallRecord> CallLog::records() const {
  const std::lock_guard lock(mutex_);
  std::vector<CallRecord> records;
  const uint64_t kept = std::min<uint64_t>(num_records_, kNumRecords);
  for (uint64_t number = num_records_ - kept + 1; number <= num_records_; ++number)
    records.push_back(ring_[(number - 1) % kNumRecords]);
  return records;
}

namespace {

// Columns of the table; the last one has no width.
constexpr std::array<int, 8> kWidths = {10, 14, 9, 12, 12, 16, 9, 14};

std::string milliseconds(steady_clock::duration time) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(3) << 1e3 * seconds(time);
  return out.str();
}

std::string time_of_day(std::chrono::system_clock::time_point time) {
  const int64_t all_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  const std::time_t whole = all_ms / 1000;
  std::tm local{};
  ::localtime_r(&whole, &local);
  std::ostringstream out;
  out << std::put_time(&local, "%H:%M:%S") << '.' << std::setw(3) << std::setfill('0')
      << all_ms % 1000;
  return out.str();
}

}  // namespace

void write_records(std::ostream& out, const std::vector<CallRecord>& records,
                   CallRecord::Time now_steady, std::chrono::system_clock::time_point now_system) {
  using Row = std::array<std::string, kWidths.size()>;
  const auto write = [&out](const Row& row, const std::string& rest) {
    for (size_t i = 0; i < row.size(); ++i) out << std::setw(kWidths[i]) << row[i];
    out << "  " << rest << '\n';
  };
  write({"number", "started", "state", "took ms", "waited ms", "operation", "call", "bytes"},
        "group, ranks, place");
  for (const CallRecord& record : records) {
    const CallRecord::Time end = record.done != kNever ? record.done : now_steady;
    const CallRecord::Time waited = record.waiting_since != kNever ? record.waiting_since : end;
    const auto age = std::chrono::duration_cast<std::chrono::system_clock::duration>(
        now_steady - record.started);
    write({cat(record.number), time_of_day(now_system - age), state_of(record),
           milliseconds(end - record.started), milliseconds(end - waited), record.operation,
           cat(record.sequence), cat(record.num_bytes)},
          cat(record.group->name, ", ", ranks_text(record.group->members), ", ",
              record.place.text()));
  }
}

}  // namespace vax::dist
