// Helpers of the tests of the command line: a directory that goes away, command lines as one text,
// the message of an expected error.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "app/catalogue.h"
#include "app/command_line.h"
#include "app/resolved_config.h"
#include "base/error.h"

namespace vax::app {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "vax-app-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp " + name);
    path_ = name;
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }

  // The path of the file written; directories on the way are made.
  std::string write(const std::string& name, const std::string& text) const {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
    return file.string();
  }

 private:
  std::filesystem::path path_;
};

// Words between single spaces; two spaces hold an empty word.
inline std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> result;
  std::istringstream stream(text);
  for (std::string word; std::getline(stream, word, ' ');) result.push_back(word);
  return result;
}

// The options of the program as it comes.
inline const OptionTable& program_table() {
  static const OptionTable kTable = make_option_table(built_in_catalogue());
  return kTable;
}

inline CommandLine parse(const std::vector<std::string>& arguments) {
  return parse(program_table(), arguments);
}
inline CommandLine parse_text(const std::string& text) { return parse(words(text)); }
inline std::string to_ini(const Options& options) { return to_ini(program_table(), options); }

// The message of the Error that `body` throws; a test failure when it throws none or another.
template <typename Error = ConfigError, typename Body>
std::string message_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another type of error: " << error.what();
    return {};
  }
  ADD_FAILURE() << "no error";
  return {};
}

inline std::string parse_error(const std::string& text) {
  return message_of([&] { parse_text(text); });
}

}  // namespace vax::app
