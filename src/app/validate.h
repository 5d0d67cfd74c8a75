// Checks of resolved options against the outside: the files they name and the number of ranks. They
// read nothing but directory entries and change nothing, so they run before any allocation.
#pragma once

#include "base/option_set.h"

namespace vax::app {

// That every path the subcommand uses exists, is of the right kind and readable, and that
// output.dir can be made and written without replacing any of them. THROWS ConfigError naming the
// option, the path and what is wrong with it.
void check_paths(const Options& options);

// That shard.group_size divides the number of ranks. THROWS ConfigError.
void check_world_size(const Options& options, int world_size);

}  // namespace vax::app
