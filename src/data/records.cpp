#include "data/records.h"

#include "base/error.h"
#include "data/record_parser.h"
#include "data/text_file.h"

namespace vax::data {
namespace {

namespace fs = std::filesystem;

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

void parse_lines(std::string_view text, TextPlace place, const ReadOptions& options,
                 std::vector<Record>& records) {
  for (const std::string_view line : lines_of(text)) {
    if (is_blank(line))
      throw DataError(cat(place.path, ":", place.first_line,
                          ": the line is empty, expected one JSON object on every line"));
    parse_record_object(line, place, options, records);
    ++place.first_line;
  }
}

}  // namespace

RecordFile read_records(const fs::path& path, const ReadOptions& options) {
  const fs::path name = path.extension() == ".gz" ? path.stem() : path.filename();
  const bool is_array = name.extension() == ".json";
  if (!is_array && name.extension() != ".jsonl")
    throw DataError(cat(path.string(),
                        ": expected a name that ends in .json (an array of objects) or .jsonl (one "
                        "object a line), either with .gz behind it"));
  const TextFile file = read_text_file(path, options.max_bytes);
  RecordFile result{.path = path.string(), .sha256 = file.sha256, .records = {}};
  const TextPlace place{.path = path.string()};
  if (is_array)
    parse_record_array(file.text, place, options, result.records);
  else
    parse_lines(file.text, place, options, result.records);
  if (result.records.empty()) throw DataError(cat(path.string(), ": expected rows, found none"));
  return result;
}

}  // namespace vax::data
