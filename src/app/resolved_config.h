// Resolved options as text. The INI form, given back as a configuration file, yields the same
// options: it is what a run stores and what tells whether all ranks were started alike.
#pragma once

#include <string>
#include <vector>

#include "app/option_table.h"

namespace vax::app {

// Every option that the subcommand uses, by section; one that was not given is written empty, so
// that the file also overrides what files before it set. REQUIRES options as parse() makes them
// (texts without '#' and line breaks).
std::string to_ini(const OptionTable& table, const Options& options);

// SHA-256 of to_ini(), to be compared over the ranks.
std::string config_hash(const OptionTable& table, const Options& options);

struct OptionJson {
  std::string section;
  std::string key;
  std::string json;  // a JSON value: number, text, true or false, array; null when not given
};

// The same options in the same order, for the start event of run.jsonl.
std::vector<OptionJson> to_json_values(const OptionTable& table, const Options& options);

}  // namespace vax::app
