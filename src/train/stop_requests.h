// How a running job is asked to save and stop: by signals (Slurm before a time limit, an operator)
// and by files in the output directory. Asking is local to a rank; the Checkpointer agrees on it
// over all ranks at step boundaries.
#pragma once

#include <filesystem>
#include <vector>

#include "base/stopwatch.h"
#include "train/checkpoint_options.h"

namespace vax::train {

// Handles the signals from construction to destruction. After it they are ignored: a job that is at
// its end, and may take a while to leave MPI, is not killed by a request that came late. One object
// at a time: the handler's state is the process's. A process that is still there `limit_s`
// after the first of these signals ends itself at once with `limit_exit_code`, whatever it is
// doing.
class StopSignals {
 public:
  StopSignals(const std::vector<StopSignal>& signals, double limit_s, int limit_exit_code);
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals();

  static bool received();
  // What is left to do is not to be cut short: takes the limit back, also that of later signals.
  static void lift_limit();

 private:
  std::vector<int> numbers_;
};

// `touch DIR/save`: write a checkpoint and go on; the file goes when it is taken. `touch DIR/stop`:
// write one and stop; the file stays, so that whoever restarts jobs sees that this one is not
// wanted, and goes when a later run starts.
class RequestFiles {
 public:
  explicit RequestFiles(const std::filesystem::path& directory);

  // Removes what an earlier run was asked. True when there was something.
  bool forget();
  bool stop_requested();
  // Removes the file. One that cannot be removed counts once.
  bool save_requested();

 private:
  // The file system is not asked at every step of a fast run.
  static constexpr double kInterval_s = 0.5;
  void look();

  std::filesystem::path stop_, save_;
  bool stop_seen_ = false, save_seen_ = false, save_stuck_ = false, looked_ = false;
  Stopwatch since_look_;
};

}  // namespace vax::train
