// The texts of --help and --version. Options come from the option table, defaults from the structs.
#pragma once

#include <string>
#include <string_view>

#include "app/option_table.h"

namespace vax::app {

// No line is longer than this.
inline constexpr int kHelpColumns = 100;

std::string version_text();  // "vaccine 0.1.0\n"

// What `vaccine --help` prints: the subcommands.
std::string program_help();

// What `vaccine SUBCOMMAND --help` prints: each option with its default and meaning, by section.
// REQUIRES a subcommand of app/subcommands.h.
std::string subcommand_help(const OptionTable& table, std::string_view subcommand);

}  // namespace vax::app
