// The two outputs of a training run, written by rank 0. run.jsonl is the crash-proof truth: one
// write() per line, complete to the last finished step. run.h5 holds the same numbers as arrays for
// analysis; it can be made from run.jsonl at any time (io/run_rebuild.h).
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/json_text.h"
#include "io/posix_file.h"
#include "io/run_columns.h"

namespace vax::io {

// Each call appends one line {"event": ..., ...}. Non-finite numbers become null, doubles
// round-trip. THROWS WriteError; the file then ends with the last complete line, so the caller may
// go on and try the next one.
class RunLog {
 public:
  // Creates or empties `path`. `figures`: those of the steps that will be written.
  RunLog(const std::filesystem::path& path, Figures figures);
  // Goes on with the log of a run that is continued after `last_step`: lines of later steps, `end`
  // and `memory` lines and a line that was cut off are removed, in one step as far as a crash can
  // see. Nothing where there is no file or no whole line. Warns where the log ends before
  // `last_step`. THROWS DataError (io/run_log_reader.h), WriteError.
  static std::optional<RunLog> reopen(const std::filesystem::path& path, Figures figures,
                                      int64_t last_step);

  void write(const StartRecord& record);
  void write(const StepRecord& record);
  // `layers` has l2sq and tokens summed over the batches, `batches` has them one by one.
  void write(const DriftRecord& record);
  void write(const CheckpointRecord& record);
  void write(const ResumeRecord& record);
  void write(const MemoryRecord& record);
  void write(const EndRecord& record);  // also syncs
  // Brings what was written to the disk. THROWS WriteError.
  void sync();

 private:
  RunLog(PosixFile file, int64_t size, Figures figures);
  void write_line(const JsonText& event);

  PosixFile file_;
  int64_t size_ = 0;  // bytes of complete lines
  Figures figures_;
};

// run.h5:
//   /                        schema_version, config (text), program_version
//   /metrics/train [step]    compound table, one field per field of a step that is one number; a
//                            value that was not measured or not finite is NaN; attributes units,
//                            long_name: one text per field
//   the path of each figure that is one number a layer: [step, layer], only steps that have it
//   /drift/l2sq [step, layer, batch], tokens [step, batch], samples [step]
//   /drift/relative, cosine, cka [step, layer]
//   /memory/planned_bytes, measured_bytes [part], part (text); attribute process_bytes
// The groups of such figures and /drift have their own dimension scales step, layer (0-based) and
// batch (0-based) in NetCDF-4's convention. An array appears with its first record.
//
// HDF5 cannot change a file so that a kill at any moment leaves it readable. So the numbers stay in
// memory (8 bytes each), and flush() puts a whole new file in the place of `path`: whoever opens it
// finds the file of this run's last flush() or, before the first one, of the run before.
class RunFile {
 public:
  static constexpr int64_t kSchemaVersion = 1;

  struct Description {
    std::string config;  // text of config.cfg
    std::string program_version;
  };

  RunFile(std::filesystem::path path, Figures figures, const Description& description)
      : path_(std::move(path)), columns_(std::move(figures)) {
    columns_.config = description.config;
    columns_.program_version = description.program_version;
  }

  // std::logic_error as io/run_columns.h says.
  template <typename Record>
  void append(const Record& record) {
    columns_.append(record);
  }
  // THROWS WriteError; the file is then as it was, a later flush() may do.
  void flush() const;

 private:
  std::filesystem::path path_;
  RunColumns columns_;
};

}  // namespace vax::io
