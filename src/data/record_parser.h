// Private to this folder.
// JSON text -> records, as a stream of parser events: no document tree is built, so nesting costs
// no stack and a large file is held once. Internal to records.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/records.h"

namespace vax::data {

// Where a piece of JSON comes from, for error messages.
struct TextPlace {
  std::string path;
  int64_t first_line = 1;
};

// Appends the objects of one JSON array.
void parse_record_array(std::string_view text, const TextPlace& place, const ReadOptions& options,
                        std::vector<Record>& records);

// Appends the one object that `text` (a line) must be.
void parse_record_object(std::string_view text, const TextPlace& place, const ReadOptions& options,
                         std::vector<Record>& records);

}  // namespace vax::data
