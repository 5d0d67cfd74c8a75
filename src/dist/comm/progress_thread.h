// Private to this folder: a thread that lets MPI make progress while the ranks compute. MPI moves
// data only inside its calls: without such calls a transfer that needs an answer (every large one)
// waits until its rank next waits itself. The thread makes them while operations are outstanding,
// less often the less there is to do, and sleeps while there are none or while the caller is
// inside MPI anyway. Invariant that is easy to break: it ends before MPI does, so every
// communicator and operation that shares it is gone before the Environment is.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "dist/comm/mpi_handle.h"

namespace vax::dist {

class ProgressThread {
 public:
  // REQUIRES MPI with MPI_THREAD_MULTIPLE (the Environment sees to it).
  ProgressThread();
  ProgressThread(const ProgressThread&) = delete;
  ProgressThread& operator=(const ProgressThread&) = delete;
  ~ProgressThread();

  // One operation more, or less, that needs progress. Any thread.
  void add_operation();
  void remove_operation() { --num_operations_; }
  // Between the two the caller makes progress itself.
  void enter_wait() { ++num_waits_; }
  void leave_wait() { --num_waits_; }

 private:
  bool has_work() const { return num_operations_ > 0 && num_waits_ == 0; }
  void run();
  // Time until the next call, after one that took `call` and an interval of `last`.
  static std::chrono::microseconds next_interval(std::chrono::microseconds call,
                                                 std::chrono::microseconds last);

  MpiCommunicator self_;  // of this rank alone, without traffic: what a call is made on
  std::atomic<int> num_operations_{0}, num_waits_{0};
  std::mutex mutex_;  // guards the sleep without work and stopping_
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace vax::dist
