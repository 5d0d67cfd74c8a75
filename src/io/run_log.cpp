#include <numeric>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/json_text.h"
#include "base/log.h"
#include "io/run_file.h"
#include "io/run_log_reader.h"

namespace vax::io {
namespace {

// Whether a run that goes on after `last_step` keeps an event.
struct IsKept {
  int64_t last_step;

  bool operator()(const StartRecord&) const { return true; }
  bool operator()(const MemoryRecord&) const { return false; }
  bool operator()(const EndRecord&) const { return false; }
  bool operator()(const auto& record) const { return record.step <= last_step; }
};

struct KeptLines {
  struct Range {
    int64_t begin = 0, end = 0;  // bytes
  };
  std::vector<Range> ranges;  // ascending, lines that follow each other are one range
  int64_t last_step = 0;      // of the step lines
};

KeptLines kept_lines(const std::filesystem::path& path, const Figures& figures, int64_t last_step) {
  KeptLines kept;
  read_run_log(path, figures, [&](const RunEvent& event, const RunLogLine& line) {
    if (!std::visit(IsKept{last_step}, event)) return;
    if (const auto* step = std::get_if<StepRecord>(&event)) kept.last_step = step->step;
    if (kept.ranges.empty() || kept.ranges.back().end != line.begin)
      kept.ranges.push_back({line.begin, line.begin});
    kept.ranges.back().end = line.end;
  });
  return kept;
}

}  // namespace

RunLog::RunLog(PosixFile file, int64_t size, Figures figures)
    : file_(std::move(file)), size_(size), figures_(std::move(figures)) {
  check_figures(figures_);
}

RunLog::RunLog(const std::filesystem::path& path, Figures figures)
    : RunLog(PosixFile::create(path, path), 0, std::move(figures)) {}

std::optional<RunLog> RunLog::reopen(const std::filesystem::path& path, Figures figures,
                                     int64_t last_step) {
  if (std::error_code error; !std::filesystem::exists(path, error) && !error) return std::nullopt;
  const KeptLines kept = kept_lines(path, figures, last_step);
  if (kept.ranges.empty()) return std::nullopt;
  if (kept.last_step < last_step)
    log::warning(cat(path.string(), ": its last step is ", kept.last_step,
                     ", the run goes on after step ", last_step,
                     ": the steps between are in no file"));
  int64_t num_bytes = 0;
  for (const KeptLines::Range& range : kept.ranges) num_bytes += range.end - range.begin;
  // A log of which only the end goes is cut in place: that needs no room and cannot fail halfway.
  if (kept.ranges.size() > 1)
    publish_file(path, [&](const std::filesystem::path& temporary) {
      const PosixFile old = PosixFile::open_for_reading(path);
      PosixFile cut = PosixFile::create(temporary, path);
      for (const KeptLines::Range& range : kept.ranges)
        old.copy_to(cut, range.begin, range.end - range.begin);
      cut.close();
    });
  return RunLog(PosixFile::open_for_appending(path, num_bytes), num_bytes, std::move(figures));
}

void RunLog::write(const StartRecord& record) {
  const Json config = Json::parse(record.config_json, "config_json");
  VAX_CHECK(config.is_object(), "config_json is no JSON object: ", record.config_json);
  JsonText data = JsonText::array();
  for (const DataFileRecord& file : record.data)
    data.add(JsonText(
        {{"role", file.role}, {"path", file.path}, {"sha256", file.sha256}, {"rows", file.rows}}));
  write_line(JsonText({{"event", "start"},
                       {"version", record.version},
                       {"world_size", record.world_size},
                       {"config", config},
                       {"data", data},
                       {"model",
                        {{"path", record.model_path},
                         {"parameters", record.model_parameters},
                         {"trainable", record.model_trainable}}},
                       {"config_text", record.config_text}}));
}

void RunLog::write(const StepRecord& record) {
  JsonText event = {{"event", "step"}};
  visit_step_fields(record, figures_,
                    [&](const char* name, const char*, const char*, const auto& value) {
                      event.add(name, value);
                    });
  visit_layer_figures(record, figures_, [&](const Figure& figure, const auto& values) {
    event.add(figure.name, values.empty() ? JsonText() : JsonText(values));
  });
  write_line(event);
}

void RunLog::write(const DriftRecord& record) {
  const int64_t tokens = std::reduce(record.tokens.begin(), record.tokens.end(), int64_t{0});
  JsonText layers = JsonText::array();
  for (size_t layer = 0; layer < record.l2sq.size(); ++layer) {
    const std::vector<double>& l2sq = record.l2sq[layer];
    layers.add(JsonText({{"layer", layer},
                         {"l2sq", std::accumulate(l2sq.begin(), l2sq.end(), 0.0)},
                         {"relative", record.relative.at(layer)},
                         {"cosine", record.cosine.at(layer)},
                         {"cka", record.cka.at(layer)},
                         {"tokens", tokens}}));
  }
  write_line(JsonText({{"event", "drift"},
                       {"step", record.step},
                       {"samples", record.samples},
                       {"layers", layers},
                       {"batches", {{"tokens", record.tokens}, {"l2sq", record.l2sq}}}}));
}

void RunLog::write(const CheckpointRecord& record) {
  write_line(JsonText({{"event", "checkpoint"},
                       {"step", record.step},
                       {"path", record.path},
                       {"bytes", record.bytes},
                       {"stall_s", record.stall_s}}));
}

void RunLog::write(const ResumeRecord& record) {
  JsonText rejected = JsonText::array();
  for (const RejectedCheckpoint& one : record.rejected)
    rejected.add(JsonText({{"path", one.path}, {"reason", one.reason}}));
  write_line(JsonText({{"event", "resume"},
                       {"step", record.step},
                       {"path", record.path},
                       {"rejected", rejected},
                       {"world_size", record.world_size},
                       {"config_text", record.config_text}}));
}

void RunLog::write(const MemoryRecord& record) {
  JsonText parts = JsonText::object();
  for (const MemoryRecord::Part& part : record.parts)
    parts.add(part.name, JsonText({{"planned_bytes", part.planned_bytes},
                                   {"measured_bytes", part.measured_bytes}}));
  write_line(
      JsonText({{"event", "memory"}, {"parts", parts}, {"process_bytes", record.process_bytes}}));
}

void RunLog::write(const EndRecord& record) {
  write_line(JsonText({{"event", "end"},
                       {"status", record.status},
                       {"steps", record.steps},
                       {"seconds", record.seconds}}));
  sync();
}

void RunLog::sync() { file_.sync(); }

void RunLog::write_line(const JsonText& event) {
  const std::string line = event.text() + "\n";
  try {
    file_.write(line);
  } catch (const WriteError&) {
    file_.truncate(size_);  // part of the line may be there
    throw;
  }
  size_ += static_cast<int64_t>(line.size());
}

}  // namespace vax::io
