// A thread that ends the job with a name when ranks wait for one that does not come. It looks
// several times a second whether this process has been blocked in one wait for longer than the
// timeout (the communicator's call log tells); then it asks the other ranks' watchdogs what they
// do, decides who is missing (verdict.h), and all that live write their records and end with
// kTimeoutExit.
//
// Many ranks time out at nearly the same time, one speaks: who asks is the leader, the others
// follow it; of two that ask at once the lower rank goes on. A leader whose own wait ends meanwhile
// calls it off. A leader that falls silent is no longer followed.
//
// Invariants that are easy to break:
// - the thread never waits for another rank, only for time; what ends the process cannot be held
//   up either: a second thread ends it after a while whatever hangs (a file system, MPI itself);
// - all times are those that this process was awake (wait_timer.h);
// - it ends before MPI does, and after the groups that it is to watch: make it right after the
//   world, before anything else that communicates.
#pragma once

#include <filesystem>
#include <memory>

#include "dist/comm/communicator.h"

namespace vax::dist {

// Of every rank; the program's code for a rank that failed.
inline constexpr int kTimeoutExit = 3;

struct WatchOptions {
  double timeout_s = 600;  // of one wait; 0: nothing is watched. The same on all ranks
  // For the answers of the other ranks; who has not answered by then does not respond.
  double grace_s = 5;  // > 0
};

class Watchdog {
 public:
  // Watches the calls of `world` and of all that is made from it; with one rank nothing. What their
  // devices do is aborted before the process ends. COLLECTIVE over world.
  Watchdog(const Communicator& world, const WatchOptions& options);
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  // COLLECTIVE, unless an exception is in flight. BLOCKS host until every rank has come: the last
  // wait that is watched, so that a rank that hangs at its end has a name too.
  ~Watchdog();

  // Where watchdog-rank-NNNNN.txt goes when the job is ended; empty: nowhere. Any thread.
  void set_record_directory(const std::filesystem::path& directory);

 private:
  class Watch;
  std::unique_ptr<Watch> watch_;  // null: nothing is watched
};

}  // namespace vax::dist
