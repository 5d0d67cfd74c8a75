#include "io/run_log_reader.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "base/error.h"
#include "io/json_file.h"
#include "io/posix_file.h"

namespace vax::io {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kLineDepth = 16;  // a configuration needs 4

// The members of one object, each required and of the type that is asked for.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object_.is_object()) fail("", "an object", object_);
  }

  const Json& member(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) throw DataError(cat(where_, ": lacks ", key));
    return *found;
  }
  Fields object(const char* key) const { return {member(key), cat(where_, ": ", key)}; }
  const Json& array(const char* key) const {
    const Json& value = member(key);
    if (!value.is_array()) fail(key, "an array", value);
    return value;
  }

  void read(const char* key, int64_t& value) const { value = integer(key, member(key)); }
  void read(const char* key, double& value) const { value = number(key, member(key)); }
  void read(const char* key, std::optional<double>& value) const {
    const Json& found = member(key);
    value = found.is_null() ? std::nullopt : std::optional(number(key, found));
  }
  void read(const char* key, std::string& value) const {
    const Json& found = member(key);
    if (!found.is_string()) fail(key, "a string", found);
    value = found.get_ref<const std::string&>();
  }
  void read(const char* key, std::vector<double>& values) const {
    values = numbers(key, array(key));
  }
  void read(const char* key, std::vector<int64_t>& values) const {
    for (const Json& item : array(key)) values.push_back(integer(key, item));
  }
  void read(const char* key, std::vector<std::vector<double>>& rows) const {
    for (const Json& row : array(key)) {
      if (!row.is_array()) fail(key, "arrays", row);
      rows.push_back(numbers(key, row));
    }
  }

  [[noreturn]] void fail(std::string_view key, const char* expected, const Json& found) const {
    throw DataError(cat(where_, key.empty() ? "" : ": ", key, ": expected ", expected, ", found ",
                        shown(found)));
  }

 private:
  int64_t integer(const char* key, const Json& value) const {
    const bool too_large =
        value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
    if (!value.is_number_integer() || too_large) fail(key, "an integer", value);
    return value.get<int64_t>();
  }
  // null: a number that was not finite.
  double number(const char* key, const Json& value) const {
    if (value.is_null()) return std::numeric_limits<double>::quiet_NaN();
    if (!value.is_number()) fail(key, "a number or null", value);
    return value.get<double>();
  }
  std::vector<double> numbers(const char* key, const Json& array) const {
    std::vector<double> values;
    for (const Json& item : array) values.push_back(number(key, item));
    return values;
  }

  const Json& object_;
  std::string where_;
};

StartRecord read_start(const Fields& fields) {
  StartRecord record;
  fields.read("version", record.version);
  fields.read("world_size", record.world_size);
  if (!fields.member("config").is_object())
    fields.fail("config", "an object", fields.member("config"));
  record.config_json = fields.member("config").dump();
  fields.read("config_text", record.config_text);
  for (const Json& item : fields.array("data")) {
    const Fields file(item, "data");
    DataFileRecord& read = record.data.emplace_back();
    file.read("role", read.role);
    file.read("path", read.path);
    file.read("sha256", read.sha256);
    file.read("rows", read.rows);
  }
  const Fields model = fields.object("model");
  model.read("path", record.model_path);
  model.read("parameters", record.model_parameters);
  model.read("trainable", record.model_trainable);
  return record;
}

StepRecord read_step(const Fields& fields, const Figures& figures) {
  StepRecord record = empty_step(figures);
  visit_step_fields(record, figures, [&](const char* name, const char*, const char*, auto& value) {
    fields.read(name, value);
  });
  visit_layer_figures(record, figures, [&](const Figure& figure, std::vector<double>& values) {
    const char* name = figure.name.c_str();
    if (!fields.member(name).is_null()) fields.read(name, values);
  });
  return record;
}

DriftRecord read_drift(const Fields& fields) {
  DriftRecord record;
  fields.read("step", record.step);
  fields.read("samples", record.samples);
  for (const Json& item : fields.array("layers")) {
    const Fields layer(item, "layers");
    layer.read("relative", record.relative.emplace_back());
    layer.read("cosine", record.cosine.emplace_back());
    layer.read("cka", record.cka.emplace_back());
  }
  const Fields batches = fields.object("batches");
  batches.read("tokens", record.tokens);
  batches.read("l2sq", record.l2sq);
  return record;
}

CheckpointRecord read_checkpoint(const Fields& fields) {
  CheckpointRecord record;
  fields.read("step", record.step);
  fields.read("path", record.path);
  fields.read("bytes", record.bytes);
  fields.read("stall_s", record.stall_s);
  return record;
}

ResumeRecord read_resume(const Fields& fields) {
  ResumeRecord record;
  fields.read("step", record.step);
  fields.read("path", record.path);
  fields.read("world_size", record.world_size);
  fields.read("config_text", record.config_text);
  for (const Json& item : fields.array("rejected")) {
    const Fields rejected(item, "rejected");
    RejectedCheckpoint& read = record.rejected.emplace_back();
    rejected.read("path", read.path);
    rejected.read("reason", read.reason);
  }
  return record;
}

MemoryRecord read_memory(const Fields& fields) {
  MemoryRecord record;
  for (const auto& [name, sizes] : fields.member("parts").items()) {
    const Fields part(sizes, cat("parts: ", name));
    MemoryRecord::Part& read = record.parts.emplace_back();
    read.name = name;
    part.read("planned_bytes", read.planned_bytes);
    part.read("measured_bytes", read.measured_bytes);
  }
  fields.read("process_bytes", record.process_bytes);
  return record;
}

EndRecord read_end(const Fields& fields) {
  EndRecord record;
  fields.read("status", record.status);
  fields.read("steps", record.steps);
  fields.read("seconds", record.seconds);
  return record;
}

RunEvent read_event(const Json& object, const Figures& figures) {
  std::string name;
  const Fields event(object, "event");
  event.read("event", name);
  const Fields fields(object, name);
  if (name == "start") return read_start(fields);
  if (name == "step") return read_step(fields, figures);
  if (name == "drift") return read_drift(fields);
  if (name == "checkpoint") return read_checkpoint(fields);
  if (name == "resume") return read_resume(fields);
  if (name == "memory") return read_memory(fields);
  if (name == "end") return read_end(fields);
  event.fail("", "start, step, drift, checkpoint, resume, memory or end", Json(name));
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
    const Json object = parse_ordered_json(text, where, kLineDepth);
    std::optional<RunEvent> event;
    try {
      event = read_event(object, figures);
      consistency.check(*event, line.number);
    } catch (const DataError& e) {
      throw DataError(cat(where, ": ", e.what()));
    }
    visit(*event, line);
  }
  if (lines.pending_bytes() > kMaxRunLogLineBytes)
    throw DataError(cat(path.string(), ":", line.number + 1, ": expected lines of at most ",
                        kMaxRunLogLineBytes, " bytes"));
  return {.num_lines = line.number, .whole_bytes = line.end, .is_cut = lines.pending_bytes() > 0};
}

}  // namespace vax::io
