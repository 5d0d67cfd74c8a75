// The JSON of files from elsewhere: configurations (io/json_file.h) and rows of data
// (data/record_parser.h). Refused with a DataError, or a value that can be looked into.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/record_parser.h"
#include "io/json_file.h"
#include "memory_file.h"

namespace {

using nlohmann::json;
using vax::fuzz::require;

// A DataError and nothing else.
template <typename Read>
void try_to(Read&& read) {
  try {
    read();
  } catch (const vax::DataError&) {
  }
}

int depth_of(const json& value) {
  int deepest = 0;
  if (value.is_structured())
    for (const json& item : value) deepest = std::max(deepest, depth_of(item));
  return deepest + (value.is_structured() ? 1 : 0);
}

void look_into(const json& object) {
  for (const char* key : {"a", "dtype", "shape", ""}) {
    try_to([&] { vax::io::bool_or(object, key, false, "x"); });
    try_to([&] { vax::io::string_or(object, key, "", "x"); });
    try_to([&] { vax::io::number_or(object, key, 0, "x"); });
    try_to([&] { vax::io::integer_or(object, key, 0, "x"); });
  }
  require(vax::io::shown(object).size() < 200);
}

void read_rows(std::string_view text) {
  using vax::data::RecordFormat;
  for (const RecordFormat format : {RecordFormat::kAlpaca, RecordFormat::kText}) {
    std::vector<vax::data::Record> records;
    const vax::data::ReadOptions options{.format = format};
    const auto parsed = [&](auto parse) {
      try_to([&] { parse(text, {.path = "rows.json"}, options, records); });
    };
    parsed(vax::data::parse_record_array);
    parsed(vax::data::parse_record_object);
    for (const vax::data::Record& record : records)
      require(format == RecordFormat::kText ? !record.text.empty() : !record.instruction.empty());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try_to([&] {
    const json value = vax::io::parse_json(text, "x");
    require(depth_of(value) <= vax::io::kMaxJsonDepth);
    // What is accepted is written as text that is accepted and says the same.
    require(vax::io::parse_json(value.dump(), "x") == value);
    look_into(value);
  });
  try_to([&] { vax::io::parse_ordered_json(text, "x", 8); });
  read_rows(text);
  return 0;
}
