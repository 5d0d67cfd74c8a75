// What one option means depends on others: dependent defaults and the checks that need several
// options but no file and no rank. Runs once after parse(), before app/validate.h.
#pragma once

#include "app/command_line.h"

namespace vax::app {

// Defaults that depend on the subcommand (the table's) or on other options: train.epochs without
// train.max_steps, drift.path from data.path, drift.reference_path from model.path.
void fill_defaults(const OptionTable& table, Options& options);

// fill_defaults() and the checks. Of train.epochs and train.max_steps the one from the more
// important source holds and the other is emptied.
// REQUIRES a run request. THROWS ConfigError naming the options, their values and places.
void resolve(CommandLine& command_line);

}  // namespace vax::app
