#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "io/json_file.h"
#include "io/run_file.h"

namespace vax::io {
namespace {

using nlohmann::ordered_json;

// Texts may hold bytes that are not UTF-8 (a path): they are replaced, a log line never fails on
// them.
std::string line_of(const ordered_json& event) {
  return event.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

template <typename T>
ordered_json value_of(const T& value) {
  return value;
}
template <typename T>
ordered_json value_of(const std::optional<T>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

}  // namespace

RunLog::RunLog(const std::filesystem::path& path) : file_(PosixFile::create(path, path)) {}

void RunLog::write(const StartRecord& record) {
  const ordered_json config = ordered_json::parse(record.config_json, nullptr, false);
  VAX_CHECK(config.is_object(), "config_json is no JSON object: ", record.config_json);
  ordered_json data = ordered_json::array();
  for (const DataFileRecord& file : record.data)
    data.push_back(
        {{"role", file.role}, {"path", file.path}, {"sha256", file.sha256}, {"rows", file.rows}});
  write_line(line_of({{"event", "start"},
                      {"version", record.version},
                      {"world_size", record.world_size},
                      {"config", config},
                      {"data", data},
                      {"model",
                       {{"path", record.model_path},
                        {"parameters", record.model_parameters},
                        {"trainable", record.model_trainable}}}}));
}

void RunLog::write(const StepRecord& record) {
  ordered_json event = {{"event", "step"}};
  visit_step_fields(record, [&](const char* name, const char*, const char*, const auto& value) {
    event[name] = value_of(value);
  });
  write_line(line_of(event));
}

void RunLog::write(const DriftRecord& record) {
  const int64_t tokens = std::reduce(record.tokens.begin(), record.tokens.end(), int64_t{0});
  ordered_json layers = ordered_json::array();
  for (size_t layer = 0; layer < record.l2sq.size(); ++layer) {
    const std::vector<double>& l2sq = record.l2sq[layer];
    layers.push_back({{"layer", layer},
                      {"l2sq", std::accumulate(l2sq.begin(), l2sq.end(), 0.0)},
                      {"relative", record.relative.at(layer)},
                      {"cosine", record.cosine.at(layer)},
                      {"cka", record.cka.at(layer)},
                      {"tokens", tokens}});
  }
  write_line(line_of({{"event", "drift"},
                      {"step", record.step},
                      {"samples", record.samples},
                      {"layers", layers}}));
}

void RunLog::write(const MemoryRecord& record) {
  ordered_json parts = ordered_json::object();
  for (const MemoryRecord::Part& part : record.parts)
    parts[part.name] = {{"planned_bytes", part.planned_bytes},
                        {"measured_bytes", part.measured_bytes}};
  write_line(
      line_of({{"event", "memory"}, {"parts", parts}, {"process_bytes", record.process_bytes}}));
}

void RunLog::write(const EndRecord& record) {
  write_line(line_of({{"event", "end"},
                      {"status", record.status},
                      {"steps", record.steps},
                      {"seconds", record.seconds}}));
  file_.sync();
}

void RunLog::write_line(std::string line) {
  try {
    file_.write(line);
  } catch (const WriteError&) {
    file_.truncate(size_);  // part of the line may be there
    throw;
  }
  size_ += static_cast<int64_t>(line.size());
}

}  // namespace vax::io
