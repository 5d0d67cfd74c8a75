// What a run tells while it goes: run.jsonl and run.h5 in the output directory, and a progress
// line. Lives on rank 0 only.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/options.h"
#include "base/stopwatch.h"
#include "io/run_file.h"

namespace vax::train {

class RunOutputs {
 public:
  // Creates `directory`, config.cfg, run.jsonl and run.h5 in it. THROWS DataError.
  RunOutputs(const std::filesystem::path& directory, const std::string& config_text,
             const io::StartRecord& start, int64_t log_interval);

  void step(const io::StepRecord& record, int64_t num_steps);
  void drift(const io::DriftRecord& record);
  void memory(const io::MemoryRecord& record);
  void end(const std::string& status, int64_t steps);

 private:
  void show_progress(const io::StepRecord& record, int64_t num_steps);

  io::RunLog log_;
  io::RunFile file_;
  int64_t log_interval_;
  bool is_terminal_;
  Stopwatch watch_;
  Stopwatch since_flush_;
  double smoothed_step_s_ = 0;
};

// Peak resident memory of this process so far, bytes.
int64_t peak_memory_bytes();

}  // namespace vax::train
