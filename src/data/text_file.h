// Whole text files in memory: plain or gzip (by the name's end, .gz), hashed as they lie on disk,
// UTF-8 checked. The hash and the text come from the same bytes, so a file that is replaced while
// it is read cannot give the hash of one and the text of the other. What is read line by line is
// read through here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace vax::data {

struct TextFile {
  std::string text;    // decompressed, valid UTF-8, without a byte-order mark
  std::string sha256;  // of the file's bytes
};

// THROWS DataError with the path when the file cannot be read, is no complete gzip stream, expands
// to more than `max_bytes`, or is not valid UTF-8 (then with the line).
TextFile read_text_file(const std::filesystem::path& path, uint64_t max_bytes);

// The lines of a text, which end with "\n" or "\r\n"; the last one may end without.
std::vector<std::string_view> lines_of(std::string_view text);

}  // namespace vax::data
