// From a started MPI environment to a finished subcommand.
#pragma once

#include "app/catalogue.h"
#include "app/session.h"
#include "dist/comm/environment.h"

namespace vax::app {

// --help and --version need no MPI: prints and returns true when they are asked for.
bool print_information(int argc, const char* const* argv, const Catalogue& catalogue);

// Parses, validates and runs: kDone, or kStopped when the run was asked to stop. COLLECTIVE. THROWS
// AgreedError for what every rank knows of.
ExitCode run_program(int argc, const char* const* argv, const Catalogue& catalogue,
                     const dist::Environment& environment);

}  // namespace vax::app
