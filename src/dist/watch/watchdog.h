// Private to this folder: a thread that ends the job with a name when ranks wait for one that does
// not come. It looks several times a second whether this process has been blocked in one wait for
// longer than the timeout; then it asks the other ranks' watchdogs what they do, decides who is
// missing (verdict.h), and all that live write their records and end with kTimeoutExit.
//
// Many ranks time out at nearly the same time, one speaks: who asks is the leader, the others
// follow it; of two that ask at once the lower rank goes on. A leader whose own wait ends meanwhile
// calls it off. A leader that falls silent is no longer followed. Invariants that are easy to
// break:
// - the thread never waits for another rank, only for time; what ends the process cannot be held
//   up either: a second thread ends it after a while whatever hangs (a file system, MPI itself);
// - all times are those that this process was awake (wait_timer.h);
// - it ends before MPI does: see the destructor.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dist/comm/call_log.h"
#include "dist/comm/device_registry.h"
#include "dist/watch/verdict.h"
#include "dist/watch/wait_timer.h"
#include "dist/watch/watch_channel.h"

namespace vax::dist {

// Of every rank; the program's code for a rank that failed.
inline constexpr int kTimeoutExit = 3;

struct WatchOptions {
  double timeout_s = 600;  // > 0
  // For the answers of the other ranks; who has not answered by then does not respond.
  double grace_s = 5;  // > 0
};

class Watchdog {
 public:
  // `comm`: a communicator of its own, with all ranks of the world; `names` of all of them. What
  // the `devices` do is aborted before the process ends.
  Watchdog(MpiCommunicator comm, std::vector<RankName> names, std::shared_ptr<CallLog> calls,
           std::shared_ptr<DeviceRegistry> devices, const WatchOptions& options);
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  // COLLECTIVE, unless an exception is in flight. BLOCKS host until every rank has come: the last
  // wait that is watched, so that a rank that hangs at its end has a name too.
  ~Watchdog();

  // Where watchdog-rank-NNNNN.txt goes; empty: nowhere. Any thread.
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
  void handle(const WatchChannel::Message& message);
  void follow(int asking);
  void lead(const Wait& wait);
  void go_on_leading();
  [[noreturn]] void announce(const std::string& verdict);
  [[noreturn]] void obey(const std::string& verdict, int leader);
  void write_file(const std::string& verdict);

  const WatchOptions options_;
  const double period_s_;
  const std::vector<RankName> names_;
  const std::shared_ptr<CallLog> calls_;
  const std::shared_ptr<DeviceRegistry> devices_;
  const std::shared_ptr<CallGroup> end_of_run_;
  const int exceptions_before_;  // in flight when this was made
  WatchChannel channel_;

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

}  // namespace vax::dist
