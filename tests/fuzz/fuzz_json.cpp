// The JSON of files from elsewhere: configurations (base/json.h) and rows of data
// (data/record_parser.h). Refused with a DataError, or a value that can be looked into.
#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "data/record_parser.h"
#include "memory_file.h"

namespace {

using vax::Json;
using vax::fuzz::require;

// A DataError and nothing else.
template <typename Read>
void try_to(Read&& read) {
  try {
    read();
  } catch (const vax::DataError&) {
  }
}

int depth_of(const Json& value) {
  int deepest = 0;
  if (value.is_object())
    for (const auto& [key, member] : value.members()) deepest = std::max(deepest, depth_of(member));
  if (value.is_array())
    for (const Json& item : value.items()) deepest = std::max(deepest, depth_of(item));
  return deepest + (value.is_object() || value.is_array() ? 1 : 0);
}

void look_into(const Json& object) {
  for (const char* key : {"a", "dtype", "shape", ""}) {
    try_to([&] { object[key].boolean_or(false); });
    try_to([&] { object[key].text_or(""); });
    try_to([&] { object[key].number_or(0); });
    try_to([&] { object[key].integer_or(0); });
    try_to([&] { object[key].items(); });
  }
  require(object.shown().size() < 200);
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
    const Json value = Json::parse(text, "x");
    require(depth_of(value) <= vax::JsonLimits{}.max_depth);
    // What is accepted is written as text that is accepted and says the same.
    const std::string written = value.dump();
    require(Json::parse(written, "x").dump() == written);
    look_into(value);
  });
  try_to([&] { Json::parse(text, "x", {.max_depth = 8, .max_members = 16}); });
  read_rows(text);
  return 0;
}
