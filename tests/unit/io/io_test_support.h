// Helpers of the tests of io/: a scratch directory, hand-made safetensors files, expected errors,
// and a child process that may not write more than so many bytes.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace vax::io::testing {

// A fresh directory, removed with everything in it at the end of its scope.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

void write_text(const std::filesystem::path& path, std::string_view content);

// 8 bytes of length, the header, the data.
std::string safetensors_bytes(std::string_view header, std::string_view data);

// Names in a directory, sorted; temporary files that were left behind would show here.
std::vector<std::string> list_directory(const std::filesystem::path& path);

// Runs `body` in a child process whose files may not exceed `num_bytes` and returns the message of
// the exception it ended with ("WriteError: ..."), "no error" otherwise. The limit gives EFBIG
// where a full disk gives ENOSPC; the program treats both alike.
std::string run_with_file_limit(int64_t num_bytes, const std::function<void()>& body);

// `body` must throw an E whose message has every one of `parts`.
template <typename E>
void expect_error(const std::function<void()>& body, const std::vector<std::string>& parts) {
  try {
    body();
  } catch (const E& e) {
    for (const std::string& part : parts)
      EXPECT_NE(std::string_view(e.what()).find(part), std::string_view::npos)
          << "message: " << e.what() << "\nlacks: " << part;
    return;
  }
  ADD_FAILURE() << "no error; expected one with: " << ::testing::PrintToString(parts);
}

inline void expect_data_error(const std::function<void()>& body,
                              const std::vector<std::string>& parts) {
  expect_error<DataError>(body, parts);
}

}  // namespace vax::io::testing
