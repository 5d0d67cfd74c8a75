#include "io/run_log_reader.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/json.h"
#include "io/posix_file.h"

namespace vax::io {
namespace {

constexpr JsonLimits kLineLimits = {.max_depth = 16,  // a configuration needs 4
                                    .max_members = 1024};

// null: a number that was not finite.
double number(const Json& value) {
  if (value.is_null()) return std::numeric_limits<double>::quiet_NaN();
  if (!value.is_number()) value.fail("a number or null");
  return value.number();
}

void get(const Json& value, int64_t& read) { read = value.integer(); }
void get(const Json& value, double& read) { read = number(value); }
void get(const Json& value, std::optional<double>& read) {
  read = value.is_null() ? std::nullopt : std::optional(number(value));
}
void get(const Json& value, std::string& read) { read = value.text(); }
template <typename T>
void get(const Json& value, std::vector<T>& read) {
  for (const Json& item : value.items()) get(item, read.emplace_back());
}

// The member `key`, which must be there and of the type of `value`.
template <typename T>
void read(const Json& object, std::string_view key, T& value) {
  get(object.required(key), value);
}

// The items of a list, each under the list's name.
std::vector<Json> list(const Json& object, std::string_view key) {
  const Json found = object.required(key);
  std::vector<Json> items;
  for (const Json& item : found.items()) items.push_back(item.named(found.where()));
  return items;
}

StartRecord read_start(const Json& fields) {
  StartRecord record;
  read(fields, "version", record.version);
  read(fields, "world_size", record.world_size);
  const Json config = fields.required("config");
  if (!config.is_object()) config.fail("an object");
  record.config_json = config.dump();
  read(fields, "config_text", record.config_text);
  for (const Json& file : list(fields, "data")) {
    DataFileRecord& data = record.data.emplace_back();
    read(file, "role", data.role);
    read(file, "path", data.path);
    read(file, "sha256", data.sha256);
    read(file, "rows", data.rows);
  }
  const Json model = fields.required("model");
  read(model, "path", record.model_path);
  read(model, "parameters", record.model_parameters);
  read(model, "trainable", record.model_trainable);
  return record;
}

StepRecord read_step(const Json& fields, const Figures& figures) {
  StepRecord record = empty_step(figures);
  visit_step_fields(record, figures, [&](const char* name, const char*, const char*, auto& value) {
    read(fields, name, value);
  });
  visit_layer_figures(record, figures, [&](const Figure& figure, std::vector<double>& values) {
    if (const Json found = fields.required(figure.name); !found.is_null()) get(found, values);
  });
  return record;
}

DriftRecord read_drift(const Json& fields) {
  DriftRecord record;
  read(fields, "step", record.step);
  read(fields, "samples", record.samples);
  for (const Json& layer : list(fields, "layers")) {
    read(layer, "relative", record.relative.emplace_back());
    read(layer, "cosine", record.cosine.emplace_back());
    read(layer, "cka", record.cka.emplace_back());
  }
  const Json batches = fields.required("batches");
  read(batches, "tokens", record.tokens);
  for (const Json& layer : list(batches, "l2sq")) {
    if (!layer.is_array()) layer.fail("arrays");
    get(layer, record.l2sq.emplace_back());
  }
  return record;
}

CheckpointRecord read_checkpoint(const Json& fields) {
  CheckpointRecord record;
  read(fields, "step", record.step);
  read(fields, "path", record.path);
  read(fields, "bytes", record.bytes);
  read(fields, "stall_s", record.stall_s);
  return record;
}

ResumeRecord read_resume(const Json& fields) {
  ResumeRecord record;
  read(fields, "step", record.step);
  read(fields, "path", record.path);
  read(fields, "world_size", record.world_size);
  read(fields, "config_text", record.config_text);
  for (const Json& item : list(fields, "rejected")) {
    RejectedCheckpoint& rejected = record.rejected.emplace_back();
    read(item, "path", rejected.path);
    read(item, "reason", rejected.reason);
  }
  return record;
}

MemoryRecord read_memory(const Json& fields) {
  MemoryRecord record;
  for (const auto& [name, sizes] : fields.required("parts").members()) {
    MemoryRecord::Part& part = record.parts.emplace_back();
    part.name = name;
    read(sizes, "planned_bytes", part.planned_bytes);
    read(sizes, "measured_bytes", part.measured_bytes);
  }
  read(fields, "process_bytes", record.process_bytes);
  return record;
}

EndRecord read_end(const Json& fields) {
  EndRecord record;
  read(fields, "status", record.status);
  read(fields, "steps", record.steps);
  read(fields, "seconds", record.seconds);
  return record;
}

RunEvent read_event(const Json& line, const Figures& figures) {
  const Json event = line.named(line.where() + ": event");
  const std::string name = event.required("event").text();
  const Json fields = line.named(line.where() + ": " + name);
  if (name == "start") return read_start(fields);
  if (name == "step") return read_step(fields, figures);
  if (name == "drift") return read_drift(fields);
  if (name == "checkpoint") return read_checkpoint(fields);
  if (name == "resume") return read_resume(fields);
  if (name == "memory") return read_memory(fields);
  if (name == "end") return read_end(fields);
  event["event"].named(event.where()).fail("start, step, drift, checkpoint, resume, memory or end");
}

// What lines must have in common. Messages lack the place, which the caller adds.
class Consistency {
 public:
  explicit Consistency(const Figures& figures) : figures_(figures) {}

  void check(const RunEvent& event, int64_t line) {
    const bool is_start = std::holds_alternative<StartRecord>(event);
    if (is_start != (line == 1))
      throw DataError(is_start ? "a second start" : "expected start in the first line");
    if (const auto* step = std::get_if<StepRecord>(&event)) check_step(*step);
    if (const auto* drift = std::get_if<DriftRecord>(&event)) check_drift(*drift);
    if (std::holds_alternative<MemoryRecord>(event) && std::exchange(has_memory_, true))
      throw DataError("a second memory");
  }

 private:
  static void ascend(int64_t& last, int64_t step) {
    if (last >= step) throw DataError(cat("step ", step, " stands after step ", last));
    last = step;
  }
  // The first count stands for all.
  static void agree(const char* what, size_t& all, size_t found) {
    if (all == 0) all = found;
    if (found != all || found == 0)
      throw DataError(cat(what, ": expected ", all == 0 ? std::string("some") : std::to_string(all),
                          " entries, found ", found));
  }

  void check_step(const StepRecord& record) {
    ascend(last_step_, record.step);
    visit_layer_figures(record, figures_, [&](const Figure& figure, const auto& values) {
      if (!values.empty()) agree(figure.name.c_str(), num_figure_layers_, values.size());
    });
  }
  void check_drift(const DriftRecord& record) {
    ascend(last_drift_, record.step);
    agree("layers", num_layers_, record.relative.size());
    agree("batches: l2sq", num_layers_, record.l2sq.size());
    agree("batches: tokens", num_batches_, record.tokens.size());
    for (const auto& batches : record.l2sq)
      agree("batches: l2sq of a layer", num_batches_, batches.size());
  }

  static constexpr int64_t kNone = std::numeric_limits<int64_t>::min();
  int64_t last_step_ = kNone, last_drift_ = kNone;
  const Figures& figures_;
  size_t num_figure_layers_ = 0, num_layers_ = 0, num_batches_ = 0;
  bool has_memory_ = false;
};

// Hands out the whole lines of a file's first `size` bytes. The text lives until the next call.
class LineReader {
 public:
  LineReader(const PosixFile& file, int64_t size) : file_(file), size_(size) {}

  // False where no whole line is left.
  bool next(std::string_view& line) {
    size_t searched = at_;
    for (;;) {
      const size_t end = buffer_.find('\n', searched);
      if (end != std::string::npos) {
        line = std::string_view(buffer_).substr(at_, end - at_);
        at_ = end + 1;
        return true;
      }
      searched = buffer_.size() - at_;
      if (!fill()) return false;
    }
  }
  // Bytes that were handed out, line ends included.
  int64_t offset() const { return read_ - static_cast<int64_t>(buffer_.size() - at_); }
  int64_t pending_bytes() const { return static_cast<int64_t>(buffer_.size() - at_); }

 private:
  // Drops what was handed out and reads on, ever larger pieces where a line is long.
  bool fill() {
    constexpr int64_t kPieceBytes = 1 << 20;
    buffer_.erase(0, at_);
    at_ = 0;
    const auto held = static_cast<int64_t>(buffer_.size());
    const int64_t piece = std::min(std::max(kPieceBytes, held), size_ - read_);
    if (piece == 0 || held > kMaxRunLogLineBytes) return false;
    buffer_.resize(static_cast<size_t>(held + piece));
    file_.read_at(read_,
                  std::as_writable_bytes(std::span(buffer_)).subspan(static_cast<size_t>(held)));
    read_ += piece;
    return true;
  }

  const PosixFile& file_;
  int64_t size_;
  int64_t read_ = 0;  // bytes
  std::string buffer_;
  size_t at_ = 0;  // in buffer_: where the next line begins
};

}  // namespace

RunLogExtent read_run_log(
    const std::filesystem::path& path, const Figures& figures,
    const std::function<void(const RunEvent& event, const RunLogLine& line)>& visit) {
  const PosixFile file = PosixFile::open_for_reading(path);
  LineReader lines(file, file.size());
  Consistency consistency(figures);
  RunLogLine line;
  for (std::string_view text; lines.next(text);) {
    line = {.number = line.number + 1, .begin = line.end, .end = lines.offset()};
    const std::string where = cat(path.string(), ":", line.number);
    const RunEvent event = read_event(Json::parse(text, where, kLineLimits), figures);
    try {
      consistency.check(event, line.number);
    } catch (const DataError& e) {
      throw DataError(cat(where, ": ", e.what()));
    }
    visit(event, line);
  }
  if (lines.pending_bytes() > kMaxRunLogLineBytes)
    throw DataError(cat(path.string(), ":", line.number + 1, ": expected lines of at most ",
                        kMaxRunLogLineBytes, " bytes"));
  return {.num_lines = line.number, .whole_bytes = line.end, .is_cut = lines.pending_bytes() > 0};
}

}  // namespace vax::io
