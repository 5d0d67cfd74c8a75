// run.h5 from run.jsonl: what a run would have written, number for number.
#pragma once

#include <cstdint>
#include <filesystem>

#include "io/run_file.h"

namespace vax::io {

struct RunSummary {
  int64_t num_steps = 0;
  int64_t last_step = 0;
  int64_t num_drifts = 0;
  bool has_ended = false;
  bool is_cut = false;  // the last line, of which only a part is there, was left out
};

// A run file with every record of the log, whose steps have `figures`, not yet published: flush()
// publishes it, or the run goes on with it. THROWS DataError with file and line
// (io/run_log_reader.h).
RunFile replay_run_log(const std::filesystem::path& jsonl, const Figures& figures,
                       const std::filesystem::path& h5, RunSummary* summary = nullptr);

// Writes `h5` anew, which takes the place of an older one when it is complete. The log may be that
// of a run that goes on. THROWS as replay_run_log(), WriteError; `h5` is then as it was.
RunSummary rebuild_run_file(const std::filesystem::path& jsonl, const Figures& figures,
                            const std::filesystem::path& h5);

// What a log begins with; figures of its steps are not looked at. THROWS as replay_run_log().
StartRecord read_start(const std::filesystem::path& jsonl);

}  // namespace vax::io
