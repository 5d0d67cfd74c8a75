#include "dist/watch/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <fstream>
#include <iomanip>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/signal_mask.h"
#include "dist/comm/call_log.h"
#include "dist/comm/device_registry.h"
#include "dist/comm/environment.h"
#include "dist/comm/message_channel.h"
#include "dist/watch/verdict.h"
#include "dist/watch/wait_timer.h"

namespace vax::dist {
namespace {

using std::chrono::steady_clock;

enum Kind : int { kQuery = 1, kAnswer, kVerdict, kWritten };  // of message

// Questions during the grace time: the verdict rests on answers that are not old.
constexpr double kAskInterval = 0.25;  // of the grace time
constexpr double kLongestPeriod_s = 0.2, kShortestPeriod_s = 0.01;
// For the others' files, and for everything after a verdict.
constexpr double kWriting_s = 3, kEnding_s = 8;
constexpr std::chrono::seconds kLastResort{12};
constexpr std::chrono::milliseconds kEndingLook{10};

double period_of(const WatchOptions& options) {
  return std::clamp(std::min(options.timeout_s, options.grace_s) / 10, kShortestPeriod_s,
                    kLongestPeriod_s);
}

std::vector<int> all_ranks(size_t count) {
  std::vector<int> ranks;
  for (size_t rank = 0; rank < count; ++rank) ranks.push_back(static_cast<int>(rank));
  return ranks;
}

// Whatever hangs from here on: files, standard error, MPI.
void end_in_any_case() {
  std::thread([] {
    std::this_thread::sleep_for(kLastResort);
    ::_exit(kTimeoutExit);
  }).detach();
}

}  // namespace

class Watchdog::Watch {
 public:
  Watch(const Communicator& world, const WatchOptions& options);
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch();
  void set_record_directory(const std::filesystem::path& directory);

 private:
  // What a leader knows.
  struct Inquiry {
    Wait wait;  // that went on for too long
    double decide_s, ask_s;
    std::vector<std::optional<RankTable>> answers;
  };

  void run() noexcept;
  bool sleep();  // until the next look; false: the end
  void look();
  void handle(const MessageChannel::Message& message);
  void follow(int asking);
  void lead(const Wait& wait);
  void go_on_leading();
  [[noreturn]] void announce(const std::string& verdict);
  [[noreturn]] void obey(const std::string& verdict, int leader);
  void write_file(const std::string& verdict);
  int size() const { return static_cast<int>(names_.size()); }

  const WatchOptions options_;
  const double period_s_;
  const int rank_;
  const std::unique_ptr<MessageChannel> channel_;
  const std::vector<RankName> names_;
  const std::shared_ptr<CallLog> calls_;
  const std::shared_ptr<DeviceRegistry> devices_;
  const std::shared_ptr<CallGroup> end_of_run_;
  const int exceptions_before_;  // in flight when this was made

  // Of the thread alone.
  WaitTimer timer_;
  std::optional<Inquiry> inquiry_;  // this rank leads
  std::optional<int> leader_;       // that this rank follows
  double heard_s_ = 0;              // from it

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  bool stopping_ = false;
  std::filesystem::path directory_;
  std::thread thread_;
};

Watchdog::Watch::Watch(const Communicator& world, const WatchOptions& options)
    : options_(options),
      period_s_(period_of(options)),
      rank_(world.rank()),
      channel_(world.make_message_channel("watchdog")),
      names_(world.all_gather_values(RankName{.host = host_name(), .pid = ::getpid()})),
      calls_(world.calls()),
      devices_(world.devices()),
      end_of_run_(calls_->add_group("end of the run", all_ranks(names_.size()))),
      exceptions_before_(std::uncaught_exceptions()),
      timer_(2 * period_s_) {
  const SignalMask mask;
  thread_ = std::thread(&Watch::run, this);
}

Watchdog::Watch::~Watch() {
  try {
    if (std::uncaught_exceptions() <= exceptions_before_) {
      const Call call = Call::blocking(end_of_run_, "barrier");
      channel_->barrier();
    }
  } catch (const std::exception& error) {
    log::error(error.what());
  }
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Watchdog::Watch::set_record_directory(const std::filesystem::path& directory) {
  const std::lock_guard lock(mutex_);
  directory_ = directory;
}

void Watchdog::Watch::run() noexcept {
  try {
    while (sleep()) look();
  } catch (const std::exception& error) {
    log::error(cat("the watchdog ends, ranks that hang are not found from now on: ", error.what()));
  }
}

bool Watchdog::Watch::sleep() {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, std::chrono::duration<double>(period_s_), [this] { return stopping_; });
  return !stopping_;
}

void Watchdog::Watch::look() {
  timer_.look(calls_->waits(), steady_clock::now());
  while (const auto message = channel_->receive()) handle(*message);
  if (leader_ && timer_.awake_s() - heard_s_ > options_.grace_s) leader_.reset();
  if (inquiry_) return go_on_leading();
  const auto longest = timer_.longest();
  if (!leader_ && longest && longest->seconds > options_.timeout_s) lead(longest->wait);
}

void Watchdog::Watch::handle(const MessageChannel::Message& message) {
  switch (message.kind) {
    case kQuery:
      channel_->send(message.from, kAnswer, to_wire(calls_->table()));
      return follow(message.from);
    case kAnswer:
      if (inquiry_) inquiry_->answers.at(message.from) = from_wire<RankTable>(message.text);
      return;
    case kVerdict:
      obey(message.text, message.from);
    case kWritten:
      return;  // counted in announce()
  }
}

void Watchdog::Watch::follow(int asking) {
  const std::optional<int> leader = inquiry_ ? rank_ : leader_;
  if (leader_after(leader, asking) != asking) return;  // it will follow that one too
  inquiry_.reset();
  leader_ = asking;
  heard_s_ = timer_.awake_s();
}

void Watchdog::Watch::lead(const Wait& wait) {
  inquiry_ = Inquiry{.wait = wait,
                     .decide_s = timer_.awake_s() + options_.grace_s,
                     .ask_s = timer_.awake_s(),
                     .answers = {}};
  inquiry_->answers.resize(names_.size());
  go_on_leading();
}

void Watchdog::Watch::go_on_leading() {
  if (!timer_.goes_on(inquiry_->wait)) {
    log::warning(cat("a wait for other ranks took longer than ", options_.timeout_s,
                     " s and has ended: going on"));
    return inquiry_.reset();
  }
  if (timer_.awake_s() >= inquiry_->ask_s) {
    inquiry_->ask_s += kAskInterval * options_.grace_s;
    for (int rank = 0; rank < size(); ++rank)
      if (rank != rank_) channel_->send(rank, kQuery, "");
  }
  if (timer_.awake_s() < inquiry_->decide_s) return;
  inquiry_->answers[rank_] = calls_->table();
  announce(cat("no answer within ", options_.timeout_s,
               " s: ", make_verdict(names_, inquiry_->answers)));
}

void Watchdog::Watch::announce(const std::string& verdict) {
  end_in_any_case();
  try {
    log::error(verdict);
    int num_writing = 0;
    for (int rank = 0; rank < size(); ++rank) {
      if (rank == rank_ || !inquiry_->answers[rank]) continue;
      channel_->send(rank, kVerdict, verdict);
      ++num_writing;
    }
    write_file(verdict);
    const auto begin = steady_clock::now();
    while (num_writing > 0 &&
           steady_clock::now() - begin < std::chrono::duration<double>(kWriting_s)) {
      while (const auto message = channel_->receive())
        if (message->kind == kWritten) --num_writing;
      std::this_thread::sleep_for(kEndingLook);
    }
    devices_->abort_all();
  } catch (const std::exception& error) {
    log::error(error.what());
  }
  Environment::abort(kTimeoutExit);
}

// The leader ends the job; should it not, this rank does.
void Watchdog::Watch::obey(const std::string& verdict, int leader) {
  end_in_any_case();
  try {
    write_file(verdict);
    channel_->send(leader, kWritten, "");
    devices_->abort_all();
    const auto begin = steady_clock::now();
    while (steady_clock::now() - begin < std::chrono::duration<double>(kEnding_s)) {
      channel_->receive();
      std::this_thread::sleep_for(kEndingLook);
    }
  } catch (const std::exception& error) {
    log::error(error.what());
  }
  Environment::abort(kTimeoutExit);
}

void Watchdog::Watch::write_file(const std::string& verdict) {
  std::filesystem::path directory;
  {
    const std::lock_guard lock(mutex_);
    directory = directory_;
  }
  if (directory.empty()) return;
  std::ostringstream name;
  name << "watchdog-rank-" << std::setw(5) << std::setfill('0') << rank_ << ".txt";
  const std::filesystem::path path = directory / name.str();
  std::ofstream file(path);
  const std::string place = calls_->table().place;
  file << verdict << "\nThis is rank " << rank_ << " of " << names_.size() << " on host "
       << names_[rank_].host << ", pid " << names_[rank_].pid
       << (place.empty() ? "" : ", at " + place) << ". Its last calls, newest last:\n\n";
  write_records(file, calls_->records(), steady_clock::now(), std::chrono::system_clock::now());
  file.close();
  if (!file) log::warning(cat(path.string(), ": the records of calls could not be written"));
}

Watchdog::Watchdog(const Communicator& world, const WatchOptions& options) {
  VAX_CHECK(options.timeout_s >= 0 && options.grace_s > 0, "a watchdog with a timeout of ",
            options.timeout_s, " s and a grace time of ", options.grace_s, " s");
  if (options.timeout_s > 0 && world.size() > 1) watch_ = std::make_unique<Watch>(world, options);
}

Watchdog::~Watchdog() = default;

void Watchdog::set_record_directory(const std::filesystem::path& directory) {
  if (watch_) watch_->set_record_directory(directory);
}

}  // namespace vax::dist
