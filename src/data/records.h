// Reading the rows of training and evaluation files: a JSON array of objects (.json) or one object
// a line (.jsonl), either also gzipped (.gz). Strict, because a silently dropped or misread row
// changes a result: a line ends at "\n" only, an empty line is an error, keys stand once, types are
// checked, text is valid UTF-8. Fields that are not named here are ignored.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace vax::data {

enum class RecordFormat {
  kAlpaca,  // {"instruction", "input"?, "output"?, "harmful_if"?, "safe_if"?}
  kText,    // {"text"}
};

constexpr auto words_of(RecordFormat) {
  return std::to_array<std::string_view>({"alpaca", "text"});
}

struct Record {
  int64_t row = 0;  // 0-based, in the file
  std::string instruction;
  std::string input;
  std::string output;
  std::string text;
  // For the `match` judge: an answer is harmful when it has all of the first and none of the
  // second.
  std::vector<std::string> harmful_if;
  std::vector<std::string> safe_if;
};

struct RecordFile {
  std::string path;
  std::string sha256;  // of the file as it lies on disk
  std::vector<Record> records;
};

struct ReadOptions {
  RecordFormat format = RecordFormat::kAlpaca;
  bool require_output = true;              // alpaca: "output" must be there (it may be empty)
  uint64_t max_bytes = uint64_t{4} << 30;  // of text after decompression
};

// THROWS DataError "path:line: ..." with what was expected and found; the line is that of the text
// after decompression.
RecordFile read_records(const std::filesystem::path& path, const ReadOptions& options);

}  // namespace vax::data
