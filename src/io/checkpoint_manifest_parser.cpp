// parse_manifest(): from hostile text to a manifest whose numbers agree with one another. Nothing
// is allocated by a number of the text, only by what the text itself lists; products and sums are
// bounded before they are formed.
#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <tuple>

#include "base/error.h"
#include "base/json.h"
#include "base/sha256.h"
#include "io/checkpoint_manifest.h"

namespace vax::io {
namespace {

constexpr int64_t kMaxInteger = std::numeric_limits<int64_t>::max();
constexpr size_t kMaxNameBytes = 255;  // of file systems; more than any tensor's name needs
constexpr size_t kMaxDims = 8;

// An object of the manifest ("manifest.json: units[3].members[0]").
class Object {
 public:
  explicit Object(const Json& value) : value_(value) {
    if (!value_.is_object()) value_.fail("an object");
  }

  Json required(const char* key) const {
    Json member = value_[key];
    if (!member.exists()) throw DataError(cat(member.where(), ": missing"));
    return member;
  }

  Json member(const char* key) const { return value_[key]; }

  std::string text(const char* key) const {
    const Json member = required(key);
    if (!member.is_text()) member.fail("a text");
    return member.text();
  }

  int64_t integer(const char* key, int64_t low, int64_t high) const {
    return required(key).integer_in(low, high);
  }

  uint64_t natural(const char* key) const { return required(key).natural(); }

  std::vector<Json> list(const char* key) const {
    const Json member = required(key);
    if (!member.is_array()) member.fail("a list");
    return member.items();
  }

  // One T per item of the list.
  template <typename T, typename Parse>
  std::vector<T> objects(const char* key, Parse&& parse) const {
    std::vector<T> items;
    for (const Json& item : list(key))
      items.push_back(parse(Object(
          item.named(cat(value_.where(), member_separator(), key, "[", items.size(), "]")))));
    return items;
  }

  std::string hash(const char* key) const {
    std::string value = text(key);
    if (!is_sha256(value)) fail_member(key, "64 hexadecimal digits", value);
    return value;
  }

  // A name that is one component of a path, in a file system and in HDF5.
  std::string plain_name(const char* key) const {
    std::string value = text(key);
    const bool printable = std::ranges::all_of(value, [](char c) {
      return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f && c != '/';
    });
    if (value.empty() || value.size() > kMaxNameBytes || value == "." || value == ".." ||
        !printable)
      value_[key].fail("a plain name of 1 to 255 bytes");
    return value;
  }

  [[noreturn]] void fail_member(const char* key, const std::string& expected,
                                const std::string& found) const {
    throw DataError(cat(value_[key].where(), ": expected ", expected, ", found ", found));
  }

 private:
  // After the file's name a colon, after a part of it a point.
  const char* member_separator() const { return value_.where().ends_with("]") ? "." : ": "; }

  Json value_;
};

std::map<std::string, std::vector<double>> parse_method_state(const Json& object) {
  std::map<std::string, std::vector<double>> state;
  if (!object.exists()) return state;
  for (const auto& [name, values] : object.members()) {
    if (!values.is_array()) values.fail("a list");
    std::vector<double>& numbers = state[name];
    for (const Json& value : values.items()) numbers.push_back(value.number());
  }
  return state;
}

DataFileRecord parse_data(const Object& object) {
  DataFileRecord data;
  data.role = object.text("role");
  data.path = object.text("path");
  data.sha256 = object.text("sha256");
  if (!data.sha256.empty()) data.sha256 = object.hash("sha256");
  data.rows = object.integer("rows", 0, kMaxInteger);
  return data;
}

CheckpointPosition parse_position(const Object& object) {
  CheckpointPosition position;
  position.num_steps = object.integer("num_steps", 0, kMaxInteger);
  position.step = object.integer("step", 0, position.num_steps);
  position.steps_per_epoch = object.integer("steps_per_epoch", 1, kMaxInteger);
  position.seed = object.natural("seed");
  return position;
}

// Parses the files and units of one manifest; what must be unique over several of them is kept
// here.
class Parser {
 public:
  explicit Parser(CheckpointManifest& manifest) : manifest_(manifest) {}

  CheckpointFile file(const Object& object) {
    CheckpointFile file;
    file.name = object.plain_name("name");
    if (file.name.starts_with(".") || file.name.starts_with("manifest.json"))
      object.fail_member("name", "the name of a data file", file.name);
    if (!file_names_.insert(file.name).second)
      object.fail_member("name", "names that differ", cat(file.name, " twice"));
    file.num_bytes = object.integer("bytes", 0, kMaxInteger - total_bytes_);
    total_bytes_ += file.num_bytes;
    file.sha256 = object.hash("sha256");
    return file;
  }

  CheckpointUnit unit(const Object& object) {
    CheckpointUnit unit;
    unit.plane = object.text("plane");
    if (unit.plane != "trainable" && unit.plane != "frozen")
      object.fail_member("plane", "trainable or frozen", unit.plane);
    unit.name = object.plain_name("name");
    if (!units_.insert({unit.plane, unit.name}).second)
      object.fail_member("name", "names that differ within a plane", cat(unit.name, " twice"));
    unit.count = object.integer("count", 0, kMaxInteger);
    unit.slice_count = object.integer("slice_count", unit.count > 0 ? 1 : 0, kMaxInteger);
    int64_t end = 0;
    unit.members = object.objects<CheckpointMember>(
        "members", [&](const Object& part) { return member(part, unit, end); });
    std::set<std::string> kinds;
    unit.arrays = object.objects<CheckpointArray>(
        "arrays", [&](const Object& part) { return array(part, unit, kinds); });
    return unit;
  }

  // Two slices that share bytes of a file cannot both be right.
  void check_overlaps(const std::string& where) {
    std::ranges::sort(ranges_);
    for (size_t i = 1; i < ranges_.size(); ++i) {
      const auto& [file, begin, end] = ranges_[i];
      const auto& [previous_file, previous_begin, previous_end] = ranges_[i - 1];
      if (file == previous_file && begin < previous_end)
        throw DataError(cat(where, ": slices of ", manifest_.files[static_cast<size_t>(file)].name,
                            " overlap: expected a beginning at or after byte ", previous_end,
                            ", found ", begin));
    }
  }

 private:
  // `end`: of the member before, in elements; set to that of this one.
  CheckpointMember member(const Object& object, const CheckpointUnit& unit, int64_t& end) {
    CheckpointMember member;
    member.name = object.plain_name("name");
    if (!members_.insert(member.name).second)
      object.fail_member("name", "names that differ", cat(member.name, " twice"));
    member.offset = object.integer("offset", end, unit.count);
    for (const Json& extent : object.list("shape"))
      member.shape.push_back(extent.integer_in(1, kMaxInteger));
    if (member.shape.empty() || member.shape.size() > kMaxDims)
      object.fail_member("shape", cat("1 to ", kMaxDims, " dimensions"), cat(member.shape.size()));
    int64_t count = 1;
    for (const int64_t extent : member.shape) {
      if (extent > (unit.count - member.offset) / count)
        object.required("shape").fail(
            cat("at most ", unit.count - member.offset, " elements, as are left of ", unit.name));
      count *= extent;
    }
    end = member.offset + count;
    return member;
  }

  CheckpointArray array(const Object& object, const CheckpointUnit& unit,
                        std::set<std::string>& kinds) {
    CheckpointArray array;
    array.kind = object.text("kind");
    if (array.kind != kParameters && array.kind != kExpAvg && array.kind != kExpAvgSq &&
        !is_method_kind(array.kind))
      object.fail_member(
          "kind", cat(kParameters, ", ", kExpAvg, ", ", kExpAvgSq, " or method/NAME"), array.kind);
    if (!kinds.insert(array.kind).second)
      object.fail_member("kind", "kinds that differ", cat(array.kind, " twice"));
    const std::string dtype = object.text("dtype");
    if (dtype != "F32" && dtype != "BF16") object.fail_member("dtype", "F32 or BF16", dtype);
    array.dtype = dtype == "F32" ? DType::kF32 : DType::kBF16;
    slices(object, unit, array);
    return array;
  }

  void slices(const Object& object, const CheckpointUnit& unit, CheckpointArray& array) {
    const std::vector<Json> list = object.list("slices");
    const std::string where = object.required("slices").where();
    const int64_t num_slices =
        unit.count == 0 ? 0 : unit.count / unit.slice_count + (unit.count % unit.slice_count != 0);
    if (list.size() != static_cast<uint64_t>(num_slices))
      object.fail_member(
          "slices", cat(num_slices, " slices of ", unit.slice_count, " elements for ", unit.count),
          cat(list.size()));
    const auto num_files = static_cast<int64_t>(manifest_.files.size());
    std::set<int64_t> files;
    int64_t left = unit.count;
    for (const Json& item : list) {
      if (!item.is_array() || item.size() != 2) item.fail("[file, offset in bytes]");
      const std::vector<Json> pair = item.items();
      CheckpointSlice slice;
      slice.file = pair[0].named(where + ": file").integer_in(0, num_files - 1);
      if (!files.insert(slice.file).second)
        object.fail_member("slices", "files that differ", cat(slice.file, " twice"));
      const int64_t count = std::min(left, unit.slice_count);
      left -= count;
      const int64_t size = dtype_size(array.dtype);
      const int64_t file_bytes = manifest_.files[static_cast<size_t>(slice.file)].num_bytes;
      if (count > file_bytes / size)
        object.fail_member("slices", cat("a file of at least ", count, " * ", size, " bytes"),
                           cat(file_bytes));
      slice.offset_bytes =
          pair[1].named(where + ": offset").integer_in(0, file_bytes - count * size);
      ranges_.emplace_back(slice.file, slice.offset_bytes, slice.offset_bytes + count * size);
      array.slices.push_back(slice);
    }
  }

  CheckpointManifest& manifest_;
  int64_t total_bytes_ = 0;
  std::set<std::string> file_names_, members_;
  std::set<std::pair<std::string, std::string>> units_;        // plane, name
  std::vector<std::tuple<int64_t, int64_t, int64_t>> ranges_;  // file, [begin, end) of each slice
};

}  // namespace

CheckpointManifest parse_manifest(std::string_view text, const std::string& where) {
  const Object root(Json::parse(text, where));
  const int64_t schema = root.integer("schema_version", 0, kMaxInteger);
  if (schema != CheckpointManifest::kSchemaVersion)
    root.fail_member("schema_version", cat(CheckpointManifest::kSchemaVersion), cat(schema));
  CheckpointManifest manifest;
  manifest.program_version = root.text("program_version");
  manifest.world_size = root.integer("world_size", 1, std::numeric_limits<int32_t>::max());
  manifest.position = parse_position(Object(root.required("position")));
  manifest.method_state = parse_method_state(root.member("method_state"));
  manifest.config = root.text("config");
  manifest.data = root.objects<DataFileRecord>("data", parse_data);
  Parser parser(manifest);
  manifest.files = root.objects<CheckpointFile>(
      "files", [&](const Object& object) { return parser.file(object); });
  manifest.units = root.objects<CheckpointUnit>(
      "units", [&](const Object& object) { return parser.unit(object); });
  parser.check_overlaps(where);
  return manifest;
}

}  // namespace vax::io
