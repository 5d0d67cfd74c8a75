// The command line and its configuration files turned into vax::Options, every value checked by its
// row of the option table. Later files override earlier ones and the command line overrides all
// files, wherever --config stands in it. What this does not do: dependent defaults and checks over
// several options (app/resolve.h), files and ranks (app/validate.h).
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "app/option_table.h"

namespace vax::app {

// Which setting decided an option's value.
struct Origin {
  std::string where;   // "the command line" or "FILE:LINE"
  int precedence = 0;  // of the source: the first file 0, the next 1, ..., the command line last
};

struct CommandLine {
  enum class Request { kRun, kHelp, kVersion };

  const OptionTable* table = nullptr;  // that it was parsed with; outlives this
  Request request = Request::kRun;
  Options options;  // options.subcommand is empty only for the program's own --help and --version
  std::map<std::string, Origin, std::less<>> origins;  // of the options given; by "section.key"

  // Whether a file or the command line set the option (to its default or not). An option set to
  // the empty text, where that is legal, counts as not given.
  bool given(std::string_view name) const { return origins.contains(name); }
  // "the command line", "FILE:LINE" or "default".
  std::string where(std::string_view name) const;
};

// `table`: what there is; the result refers to it. `arguments` without the program's name:
// SUBCOMMAND [--config FILE]... [--section.key VALUE]...;
// --help (-h) anywhere asks for help, --version alone for the version.
// A boolean option without a value is true. A list takes several words or one text with commas or
// spaces. On a repeated option the last one holds.
// An option that the subcommand does not use is an error on the command line; in a file it is
// checked and otherwise ignored, so that one file can serve several subcommands.
// THROWS ConfigError (option, expected, actual, place), DataError when a file cannot be read.
CommandLine parse(const OptionTable& table, const std::vector<std::string>& arguments);
CommandLine parse(const OptionTable& table, int argc, const char* const* argv);

}  // namespace vax::app
