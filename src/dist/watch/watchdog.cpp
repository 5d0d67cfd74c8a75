#include "dist/watch/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iomanip>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "base/signal_mask.h"
#include "dist/comm/environment.h"

namespace vax::dist {
namespace {

using std::chrono::steady_clock;

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

Watchdog::Watchdog(MpiCommunicator comm, std::vector<RankName> names,
                   std::shared_ptr<CallLog> calls, std::shared_ptr<DeviceRegistry> devices,
                   const WatchOptions& options)
    : options_(options),
      period_s_(period_of(options)),
      names_(std::move(names)),
      calls_(std::move(calls)),
      devices_(std::move(devices)),
      end_of_run_(calls_->add_group("end of the run", all_ranks(names_.size()))),
      exceptions_before_(std::uncaught_exceptions()),
      channel_(std::move(comm)),
      timer_(2 * period_s_) {
  VAX_CHECK(options.timeout_s > 0 && options.grace_s > 0, "a watchdog with a timeout of ",
            options.timeout_s, " s and a grace time of ", options.grace_s, " s");
  const SignalMask mask;
  thread_ = std::thread(&Watchdog::run, this);
}

Watchdog::~Watchdog() {
  try {
    if (std::uncaught_exceptions() <= exceptions_before_) {
      const Call call = Call::blocking(end_of_run_, "barrier");
      channel_.barrier();
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

void Watchdog::set_record_directory(const std::filesystem::path& directory) {
  const std::lock_guard lock(mutex_);
  directory_ = directory;
}

void Watchdog::run() noexcept {
  try {
    while (sleep()) look();
  } catch (const std::exception& error) {
    log::error(cat("the watchdog ends, ranks that hang are not found from now on: ", error.what()));
  }
}

bool Watchdog::sleep() {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, std::chrono::duration<double>(period_s_), [this] { return stopping_; });
  return !stopping_;
}

void Watchdog::look() {
  timer_.look(calls_->waits(), steady_clock::now());
  while (const auto message = channel_.receive()) handle(*message);
  if (leader_ && timer_.awake_s() - heard_s_ > options_.grace_s) leader_.reset();
  if (inquiry_) return go_on_leading();
  const auto longest = timer_.longest();
  if (!leader_ && longest && longest->seconds > options_.timeout_s) lead(longest->wait);
}

void Watchdog::handle(const WatchChannel::Message& message) {
  switch (message.kind) {
    case WatchMessage::kQuery:
      channel_.send(message.from, WatchMessage::kAnswer, to_text(calls_->table()));
      return follow(message.from);
    case WatchMessage::kAnswer:
      if (inquiry_) inquiry_->answers.at(message.from) = table_from_text(message.text);
      return;
    case WatchMessage::kVerdict:
      obey(message.text, message.from);
    case WatchMessage::kWritten:
      return;  // counted in announce()
  }
}

void Watchdog::follow(int asking) {
  const std::optional<int> leader = inquiry_ ? channel_.rank() : leader_;
  if (leader_after(leader, asking) != asking) return;  // it will follow that one too
  inquiry_.reset();
  leader_ = asking;
  heard_s_ = timer_.awake_s();
}

void Watchdog::lead(const Wait& wait) {
  inquiry_ = Inquiry{.wait = wait,
                     .decide_s = timer_.awake_s() + options_.grace_s,
                     .ask_s = timer_.awake_s(),
                     .answers = {}};
  inquiry_->answers.resize(names_.size());
  go_on_leading();
}

void Watchdog::go_on_leading() {
  if (!timer_.goes_on(inquiry_->wait)) {
    log::warning(cat("a wait for other ranks took longer than ", options_.timeout_s,
                     " s and has ended: going on"));
    return inquiry_.reset();
  }
  if (timer_.awake_s() >= inquiry_->ask_s) {
    inquiry_->ask_s += kAskInterval * options_.grace_s;
    for (int rank = 0; rank < channel_.size(); ++rank)
      if (rank != channel_.rank()) channel_.send(rank, WatchMessage::kQuery, "");
  }
  if (timer_.awake_s() < inquiry_->decide_s) return;
  inquiry_->answers[channel_.rank()] = calls_->table();
  announce(cat("no answer within ", options_.timeout_s,
               " s: ", make_verdict(names_, inquiry_->answers)));
}

void Watchdog::announce(const std::string& verdict) {
  end_in_any_case();
  try {
    log::error(verdict);
    int num_writing = 0;
    for (int rank = 0; rank < channel_.size(); ++rank) {
      if (rank == channel_.rank() || !inquiry_->answers[rank]) continue;
      channel_.send(rank, WatchMessage::kVerdict, verdict);
      ++num_writing;
    }
    write_file(verdict);
    const auto begin = steady_clock::now();
    while (num_writing > 0 &&
           steady_clock::now() - begin < std::chrono::duration<double>(kWriting_s)) {
      while (const auto message = channel_.receive())
        if (message->kind == WatchMessage::kWritten) --num_writing;
      std::this_thread::sleep_for(kEndingLook);
    }
    devices_->abort_all();
  } catch (const std::exception& error) {
    log::error(error.what());
  }
  Environment::abort(kTimeoutExit);
}

// The leader ends the job; should it not, this rank does.
void Watchdog::obey(const std::string& verdict, int leader) {
  end_in_any_case();
  try {
    write_file(verdict);
    channel_.send(leader, WatchMessage::kWritten, "");
    devices_->abort_all();
    const auto begin = steady_clock::now();
    while (steady_clock::now() - begin < std::chrono::duration<double>(kEnding_s)) {
      channel_.receive();
      std::this_thread::sleep_for(kEndingLook);
    }
  } catch (const std::exception& error) {
    log::error(error.what());
  }
  Environment::abort(kTimeoutExit);
}

void Watchdog::write_file(const std::string& verdict) {
  std::filesystem::path directory;
  {
    const std::lock_guard lock(mutex_);
    directory = directory_;
  }
  if (directory.empty()) return;
  const int rank = channel_.rank();
  std::ostringstream name;
  name << "watchdog-rank-" << std::setw(5) << std::setfill('0') << rank << ".txt";
  const std::filesystem::path path = directory / name.str();
  std::ofstream file(path);
  const std::string place = calls_->table().place;
  file << verdict << "\nThis is rank " << rank << " of " << names_.size() << " on host "
       << names_[rank].host << ", pid " << names_[rank].pid
       << (place.empty() ? "" : ", at " + place) << ". Its last calls, newest last:\n\n";
  write_records(file, calls_->records(), steady_clock::now(), std::chrono::system_clock::now());
  file.close();
  if (!file) log::warning(cat(path.string(), ": the records of calls could not be written"));
}

}  // namespace vax::dist
