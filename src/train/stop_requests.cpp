#include "train/stop_requests.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "base/log.h"

namespace vax::train {
namespace {

// What a handler may touch; nothing else in the program writes it while signals are handled.
volatile sig_atomic_t received_signal = 0;
volatile sig_atomic_t limit_s = 0;
volatile sig_atomic_t limit_exit_code = 0;

int number_of(StopSignal signal) {
  switch (signal) {
    case StopSignal::kUsr1:
      return SIGUSR1;
    case StopSignal::kUsr2:
      return SIGUSR2;
    case StopSignal::kTerm:
      return SIGTERM;
    case StopSignal::kInt:
      return SIGINT;
    case StopSignal::kHup:
      return SIGHUP;
  }
  VAX_CHECK(false, "signal ", static_cast<int>(signal));
  return 0;
}

extern "C" void request_stop(int number) {
  if (received_signal != 0) return;
  received_signal = number;
  ::alarm(static_cast<unsigned>(limit_s));
}

extern "C" void end_at_limit(int) {
  constexpr std::string_view kMessage =
      "error: no step boundary and no complete checkpoint within checkpoint.stop_limit_s of the "
      "stop signal: ending this process\n";
  // Nothing can be done about a failure here.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, kMessage.data(), kMessage.size());
  ::_exit(limit_exit_code);
}

void handle(int number, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  VAX_CHECK(::sigaction(number, &action, nullptr) == 0, "sigaction ", number, ": ",
            std::strerror(errno));
}

}  // namespace

StopSignals::StopSignals(const std::vector<StopSignal>& signals, double limit, int exit_code) {
  for (const StopSignal signal : signals) numbers_.push_back(number_of(signal));
  received_signal = 0;
  limit_s = static_cast<sig_atomic_t>(std::clamp(std::ceil(limit), 1.0, 1e9));
  limit_exit_code = exit_code;
  handle(SIGALRM, &end_at_limit);
  for (const int number : numbers_) handle(number, &request_stop);
}

StopSignals::~StopSignals() {
  for (const int number : numbers_) ::signal(number, SIG_IGN);
  lift_limit();
  received_signal = 0;
}

bool StopSignals::received() { return received_signal != 0; }

void StopSignals::lift_limit() {
  limit_s = 0;  // of a signal that is still to come: alarm(0) sets none
  ::alarm(0);
}

RequestFiles::RequestFiles(const std::filesystem::path& directory)
    : stop_(directory / "stop"), save_(directory / "save") {}

bool RequestFiles::forget() {
  std::error_code ignored;
  const bool stop = std::filesystem::remove(stop_, ignored);
  const bool save = std::filesystem::remove(save_, ignored);
  return stop || save;
}

void RequestFiles::look() {
  if (looked_ && since_look_.elapsed_s() < kInterval_s) return;
  std::error_code ignored;
  stop_seen_ = std::filesystem::exists(stop_, ignored);
  save_seen_ = std::filesystem::exists(save_, ignored);
  looked_ = true;
  since_look_.restart();
}

bool RequestFiles::stop_requested() {
  look();
  return stop_seen_;
}

bool RequestFiles::save_requested() {
  look();
  if (!save_seen_ || save_stuck_) return false;
  save_seen_ = false;
  std::error_code error;
  std::filesystem::remove(save_, error);
  save_stuck_ = static_cast<bool>(error);
  if (save_stuck_)
    log::warning(cat(save_.string(), ": cannot remove this request (", error.message(),
                     "): ignored from now on"));
  return true;
}

}  // namespace vax::train
