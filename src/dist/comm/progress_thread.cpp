#include "dist/comm/progress_thread.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "base/signal_mask.h"

namespace vax::dist {
namespace {

using std::chrono::microseconds;

// A call that took longer has moved data: there may be more at once.
constexpr microseconds kBusyCall{20};
constexpr microseconds kShortest{20};
// Bounds how late an answer can be; a wake-up and a call cost a few us.
constexpr microseconds kLongest{1000};

}  // namespace

ProgressThread::ProgressThread() : self_(MpiCommunicator::duplicate_of(MPI_COMM_SELF)) {
  const SignalMask mask;
  thread_ = std::thread(&ProgressThread::run, this);
}

ProgressThread::~ProgressThread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void ProgressThread::add_operation() {
  if (++num_operations_ > 1) return;
  // The lock: the thread is either before its check of the count or asleep already.
  { const std::lock_guard lock(mutex_); }
  wake_.notify_one();
}

microseconds ProgressThread::next_interval(microseconds call, microseconds last) {
  return call >= kBusyCall ? kShortest : std::min(2 * last, kLongest);
}

void ProgressThread::run() {
  microseconds interval = kShortest;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (num_operations_ == 0) {
      wake_.wait(lock, [this] { return stopping_ || num_operations_ > 0; });
      interval = kShortest;
      continue;
    }
    lock.unlock();
    microseconds call{0};
    if (has_work()) {
      const auto begin = std::chrono::steady_clock::now();
      int found = 0;
      const int code =
          MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, self_.get(), &found, MPI_STATUS_IGNORE);
      if (code != MPI_SUCCESS) return log::error("MPI_Iprobe fails: no progress from now on");
      call = std::chrono::duration_cast<microseconds>(std::chrono::steady_clock::now() - begin);
    }
    interval = next_interval(call, interval);
    lock.lock();
    wake_.wait_for(lock, interval, [this] { return stopping_; });
  }
}

}  // namespace vax::dist
