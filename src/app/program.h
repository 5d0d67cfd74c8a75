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

// All of main(): what a program of its own catalogue has to call. Returns the exit code; errors
// that all ranks know of end in order, any other one ends the job, so that no rank waits for one
// that has gone.
int program_main(int argc, char** argv, const Catalogue& catalogue);

}  // namespace vax::app
