// What a run tells while it goes: run.jsonl and run.h5 in the output directory, and a progress
// line. Lives on rank 0 only, used by one thread.
//
// run.jsonl has every record when the call returns; when it cannot be written, the call throws
// WriteError and the log ends with a whole line. run.h5 follows from time to time and can be made
// from run.jsonl whenever it is lost: a failure to write it is logged, and it is tried again at the
// next occasion.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/stopwatch.h"
#include "io/run_file.h"

namespace vax::train {

struct RunDescription {
  std::filesystem::path directory;
  std::string config_text;                 // of config.cfg
  io::StartRecord start;                   // its config_text and that of `resume` are not looked at
  std::optional<io::ResumeRecord> resume;  // of a run that goes on after step resume->step
  io::Figures figures;                     // of its steps
  int64_t log_interval = 1;
};

class RunOutputs {
 public:
  // Creates the directory, config.cfg, run.jsonl and run.h5 in it. Of a run that goes on, the lines
  // of later steps are cut off run.jsonl; where there is none (a checkpoint from elsewhere) it
  // begins with `start`. THROWS DataError, with file and line when run.jsonl is damaged.
  explicit RunOutputs(const RunDescription& run);
  // Brings run.h5 up to date.
  ~RunOutputs();
  RunOutputs(const RunOutputs&) = delete;
  RunOutputs& operator=(const RunOutputs&) = delete;

  void step(const io::StepRecord& record, int64_t num_steps);
  void drift(const io::DriftRecord& record);
  void checkpoint(const io::CheckpointRecord& record);
  void memory(const io::MemoryRecord& record);
  void end(const std::string& status, int64_t steps);
  // Brings run.jsonl to the disk: whoever calls it before publishing a checkpoint finds the steps
  // before that checkpoint in the log, even if the machine crashes. THROWS WriteError.
  void sync();

 private:
  template <typename Record>
  void add(const Record& record);
  void update_file();
  std::string figures_text(const io::StepRecord& record) const;
  void show_progress(const io::StepRecord& record, int64_t num_steps);

  std::filesystem::path directory_;
  io::Figures figures_;
  io::RunLog log_;
  io::RunFile file_;
  bool is_file_up_to_date_ = false, is_file_in_trouble_ = false;
  int64_t log_interval_;
  bool is_terminal_;
  Stopwatch watch_;
  Stopwatch since_update_;
  double update_s_ = 0;  // what the last update of run.h5 took
  double smoothed_step_s_ = 0;
};

// Peak resident memory of this process so far, bytes.
int64_t peak_memory_bytes();

}  // namespace vax::train
