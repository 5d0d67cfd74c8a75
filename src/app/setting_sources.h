// Where settings come from, as text: the command line and configuration files. Syntax only, read by
// Boost.Program_options (its headers are confined to setting_sources.cpp); what a value means is
// for app/command_line.h.
#pragma once

#include <filesystem>
#include <istream>
#include <span>
#include <string>
#include <vector>

namespace vax::app {

struct Setting {
  std::string name;  // "train.lr"
  std::vector<std::string>
      values;         // of a file always one, maybe empty; of a command line any number
  std::string where;  // "the command line" or "FILE:LINE"
};

// The arguments after the subcommand, in their order, `--config FILE` among them under the name
// "config". `known` are the full option names.
// THROWS ConfigError for an option not in `known` (with a suggestion out of `suggested`), an
// argument that belongs to no option and a malformed one.
std::vector<Setting> read_command_line(const std::vector<std::string>& arguments,
                                       const std::vector<std::string>& known,
                                       std::span<const std::string> suggested);

// INI text: [section] lines, key = value lines, '#' starts a comment. The only reader of such text.
// THROWS ConfigError with the line for a section not in `sections` (empty: any), a line that is
// neither, and a key given twice.
std::vector<Setting> read_ini(std::istream& text, const std::string& file,
                              std::span<const std::string> sections);

}  // namespace vax::app
