// What a program is composed of beside its own parts: the training methods that it knows, with the
// options that they bring. A value that main() makes and hands to run_program(); a program of one's
// own may add to it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "app/option_table.h"

namespace vax::app {

struct MethodEntry {
  std::string name;              // a legal value of train.method
  SubcommandSet default_of = 0;  // subcommands that take it when none is given
  std::optional<OptionSection> options;
};

struct Catalogue {
  std::vector<MethodEntry> methods;
};

Catalogue built_in_catalogue();

// The program's own sections and those of the catalogue's methods.
OptionTable make_option_table(const Catalogue& catalogue);

}  // namespace vax::app
