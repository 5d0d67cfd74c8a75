// Private to this folder.
// Reading run.jsonl, which may be the log of a run that still goes on, of one that was killed, or a
// file from elsewhere. Line by line: memory is that of the longest line.
//
// The one fault that passes is a last line without its end, which a kill in the middle of a write
// leaves: it is left out. Everything else is a DataError that names file and line:
//   - each line is one JSON object with the fields of its event, of their types;
//   - the log begins with `start`, and there is no other;
//   - the steps of step lines ascend, so do those of drift lines; layers and batches are as many in
//     every line; `memory` stands once.
// Fields that are not known are ignored.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <variant>

#include "io/run_records.h"

namespace vax::io {

inline constexpr int64_t kMaxRunLogLineBytes = int64_t{64} << 20;

using RunEvent = std::variant<StartRecord, StepRecord, DriftRecord, CheckpointRecord, ResumeRecord,
                              MemoryRecord, EndRecord>;

struct RunLogLine {
  int64_t number = 0;  // 1-based
  int64_t begin = 0;   // bytes from the start of the file
  int64_t end = 0;     // after its \n
};

struct RunLogExtent {
  int64_t num_lines = 0;
  int64_t whole_bytes = 0;  // of whole lines
  bool is_cut = false;      // part of a line follows
};

// Calls visit(event, line) for each whole line, in order, of what the file holds when it is opened.
// `figures`: those of its steps.
// THROWS DataError as above, and what `visit` throws.
RunLogExtent read_run_log(
    const std::filesystem::path& path, const Figures& figures,
    const std::function<void(const RunEvent& event, const RunLogLine& line)>& visit);

}  // namespace vax::io
