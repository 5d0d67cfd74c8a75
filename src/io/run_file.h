// The two outputs of a training run, written by rank 0. run.jsonl is the crash-proof truth: one
// write() per line, complete to the last finished step. run.h5 holds the same numbers as arrays for
// analysis; it lags behind by what was appended since the last flush().
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "io/posix_file.h"
#include "io/run_records.h"

namespace vax::io {

// Each call appends one line {"event": ..., ...}. Non-finite numbers become null, doubles
// round-trip. THROWS WriteError; the file then ends with the last complete line, so the caller may
// go on and try the next one.
class RunLog {
 public:
  // Creates or empties `path`.
  explicit RunLog(const std::filesystem::path& path);

  void write(const StartRecord& record);
  void write(const StepRecord& record);
  // Per layer: l2sq and tokens summed over the batches.
  void write(const DriftRecord& record);
  void write(const MemoryRecord& record);
  // Also syncs the file to the disk.
  void write(const EndRecord& record);

 private:
  void write_line(std::string line);

  PosixFile file_;
  int64_t size_ = 0;  // bytes of complete lines
};

// run.h5:
//   /                        schema_version, config (text), program_version
//   /metrics/train [step]    compound table, one field per field of a step; a value that was not
//                            measured is NaN; attributes units, long_name: one text per field
//   /perturbation/grad_norm  [step, layer], only steps with two passes
//   /drift/l2sq [step, layer, batch]  tokens [step, batch]  relative, cosine, cka [step, layer]
//          samples [step]
//   /memory/planned_bytes, measured_bytes [part], part (text); attribute process_bytes
// /perturbation and /drift have their own dimension scales step, layer (0-based) and batch
// (0-based) in NetCDF-4's convention. An array appears with its first record.
//
// append() only remembers; the file is touched in flush() and close() alone, and is consistent
// between them. THROWS WriteError when the disk refuses: from then on this object does nothing
// more, and training may go on, for run.jsonl has everything. std::logic_error when a record's
// sizes differ from those of the records before it.
class RunFile {
 public:
  static constexpr int64_t kSchemaVersion = 1;

  struct Description {
    std::string config;  // text of config.cfg
    std::string program_version;
  };

  // Creates or empties `path`.
  RunFile(const std::filesystem::path& path, const Description& description);
  RunFile(RunFile&&) noexcept;
  RunFile& operator=(RunFile&&) noexcept;
  // Closes; what fails is logged.
  ~RunFile();

  void append(const StepRecord& record);
  void append(const DriftRecord& record);
  void append(const MemoryRecord& record);  // once
  void flush();
  void close();  // flushes; later calls do nothing

 private:
  struct State;  // keeps HDF5's headers out of here
  std::unique_ptr<State> state_;
};

}  // namespace vax::io
