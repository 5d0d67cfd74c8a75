#include "io/run_rebuild.h"

#include <optional>

#include "base/error.h"
#include "io/run_log_reader.h"

namespace vax::io {
namespace {

// Hands a log's events on to a run file, which the first of them, `start`, describes.
class Replay {
 public:
  Replay(const std::filesystem::path& h5, const Figures& figures, RunSummary& summary)
      : h5_(h5), figures_(figures), summary_(summary) {}

  void operator()(const StartRecord& record) {
    file_.emplace(
        h5_, figures_,
        RunFile::Description{.config = record.config_text, .program_version = record.version});
  }
  void operator()(const StepRecord& record) {
    ++summary_.num_steps;
    summary_.last_step = record.step;
    file_->append(record);
  }
  void operator()(const DriftRecord& record) {
    ++summary_.num_drifts;
    file_->append(record);
  }
  void operator()(const MemoryRecord& record) { file_->append(record); }
  void operator()(const ResumeRecord& record) { file_->append(record); }
  void operator()(const CheckpointRecord&) {}
  void operator()(const EndRecord&) { summary_.has_ended = true; }

  std::optional<RunFile>& file() { return file_; }

 private:
  const std::filesystem::path& h5_;
  const Figures& figures_;
  RunSummary& summary_;
  std::optional<RunFile> file_;
};

}  // namespace

RunFile replay_run_log(const std::filesystem::path& jsonl, const Figures& figures,
                       const std::filesystem::path& h5, RunSummary* summary) {
  RunSummary found;
  Replay replay(h5, figures, found);
  const RunLogExtent extent = read_run_log(
      jsonl, figures, [&](const RunEvent& event, const RunLogLine&) { std::visit(replay, event); });
  if (!replay.file())
    throw DataError(cat(jsonl.string(), ":1: expected start, found no whole line"));
  found.is_cut = extent.is_cut;
  if (summary != nullptr) *summary = found;
  return std::move(*replay.file());
}

RunSummary rebuild_run_file(const std::filesystem::path& jsonl, const Figures& figures,
                            const std::filesystem::path& h5) {
  RunSummary summary;
  replay_run_log(jsonl, figures, h5, &summary).flush();
  return summary;
}

StartRecord read_start(const std::filesystem::path& jsonl) {
  std::optional<StartRecord> start;
  read_run_log(jsonl, {}, [&start](const RunEvent& event, const RunLogLine&) {
    if (const auto* record = std::get_if<StartRecord>(&event); record != nullptr && !start)
      start = *record;
  });
  if (!start) throw DataError(cat(jsonl.string(), ":1: expected start, found no whole line"));
  return *std::move(start);
}

}  // namespace vax::io
