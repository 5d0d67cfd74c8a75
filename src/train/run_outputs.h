// What a run tells while it goes: run.jsonl and run.h5 in the output directory, and a progress
// line. Lives on rank 0 only, used by one thread.
//
// run.jsonl has every record when the call returns; when it cannot be written, the call throws
// WriteError and the log ends with a whole line. run.h5 follows from time to time and can be made
// from run.jsonl whenever it is lost: what goes wrong with it is logged, and it is made anew at the
// next occasion.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "base/options.h"
#include "base/stopwatch.h"
#include "io/run_file.h"

namespace vax::train {

class RunOutputs {
 public:
  // A new run: creates `directory`, config.cfg, run.jsonl and run.h5 in it. THROWS DataError.
  RunOutputs(const std::filesystem::path& directory, const std::string& config_text,
             const io::StartRecord& start, int64_t log_interval);
  // A run that goes on after step `resume.step`. The lines of later steps are cut off run.jsonl;
  // where there is none (a checkpoint from elsewhere) it begins with `start`. THROWS DataError with
  // file and line when run.jsonl is damaged.
  RunOutputs(const std::filesystem::path& directory, const std::string& config_text,
             const io::StartRecord& start, const io::ResumeRecord& resume, int64_t log_interval);
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
  RunOutputs(std::filesystem::path directory, const std::string& config_text, io::RunLog log,
             int64_t log_interval);

  template <typename Record>
  void add(const Record& record);
  void update_file();
  void with_file(const std::function<void()>& action);
  void show_progress(const io::StepRecord& record, int64_t num_steps);

  std::filesystem::path directory_;
  io::RunLog log_;
  std::optional<io::RunFile> file_;  // empty: to be made from run.jsonl
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
