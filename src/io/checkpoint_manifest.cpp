#include "io/checkpoint_manifest.h"

#include <numeric>

#include "base/error.h"
#include "base/json_text.h"

namespace vax::io {
namespace {

// `open` one item a line `close`: a change of one item is a change of one line.
template <typename T, typename Line>
std::string lines(char open, const std::vector<T>& items, Line&& line, char close) {
  std::string text(1, open);
  for (size_t i = 0; i < items.size(); ++i) text += cat(i > 0 ? "," : "", "\n", line(items[i]));
  return text += cat("\n", close);
}

std::string line_of(const DataFileRecord& data) {
  return JsonText({{"role", data.role},
                   {"path", data.path},
                   {"sha256", data.sha256},
                   {"rows", data.rows}})
      .text();
}

std::string line_of(const CheckpointFile& file) {
  return JsonText({{"name", file.name}, {"bytes", file.num_bytes}, {"sha256", file.sha256}}).text();
}

std::string line_of(const CheckpointMember& member) {
  return JsonText({{"name", member.name}, {"shape", member.shape}, {"offset", member.offset}})
      .text();
}

std::string line_of(const CheckpointArray& array) {
  std::vector<std::vector<int64_t>> slices;
  for (const CheckpointSlice& slice : array.slices)
    slices.push_back({slice.file, slice.offset_bytes});
  return JsonText({{"kind", array.kind}, {"dtype", dtype_name(array.dtype)}, {"slices", slices}})
      .text();
}

std::string line_of(const CheckpointUnit& unit) {
  const auto line = [](const auto& item) { return line_of(item); };
  return cat(R"({"plane": )", JsonText(unit.plane).text(), R"(, "name": )",
             JsonText(unit.name).text(), R"(, "count": )", unit.count, R"(, "slice_count": )",
             unit.slice_count, R"(, "members": )", lines('[', unit.members, line, ']'),
             R"(, "arrays": )", lines('[', unit.arrays, line, ']'), "}");
}

}  // namespace

int64_t CheckpointManifest::num_bytes() const {
  return std::transform_reduce(files.begin(), files.end(), int64_t{0}, std::plus<>(),
                               [](const CheckpointFile& file) { return file.num_bytes; });
}

namespace {

constexpr std::string_view kMethod = "method/";

}  // namespace

std::string method_kind(std::string_view name) {
  std::string kind = cat(kMethod, name);
  VAX_CHECK(is_method_kind(kind), kind);
  return kind;
}

bool is_method_kind(std::string_view kind) {
  if (!kind.starts_with(kMethod) || kind.size() == kMethod.size()) return false;
  return kind.substr(kMethod.size()).find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") ==
         std::string_view::npos;
}

std::string slice_dataset(const CheckpointUnit& unit, const CheckpointArray& array) {
  return cat("/", unit.plane, "/", array.kind, "/", unit.name);
}

std::string manifest_text(const CheckpointManifest& manifest) {
  const auto line = [](const auto& item) { return line_of(item); };
  const CheckpointPosition& at = manifest.position;
  const JsonText position({{"step", at.step},
                           {"num_steps", at.num_steps},
                           {"steps_per_epoch", at.steps_per_epoch},
                           {"seed", at.seed}});
  std::string text = cat("{\"schema_version\": ", CheckpointManifest::kSchemaVersion);
  text += cat(",\n\"program_version\": ", JsonText(manifest.program_version).text());
  text += cat(",\n\"world_size\": ", manifest.world_size);
  text += cat(",\n\"position\": ", position.text());
  if (!manifest.method_state.empty())
    text += cat(",\n\"method_state\": ", JsonText(manifest.method_state).text());
  text += cat(",\n\"config\": ", JsonText(manifest.config).text());
  text += cat(",\n\"data\": ", lines('[', manifest.data, line, ']'));
  text += cat(",\n\"files\": ", lines('[', manifest.files, line, ']'));
  text += cat(",\n\"units\": ", lines('[', manifest.units, line, ']'));
  return text + "\n}\n";
}

}  // namespace vax::io
