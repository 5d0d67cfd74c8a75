// The program: reads the command line, starts MPI, runs one subcommand, turns errors into exit
// codes. Errors that all ranks know of end in order; any other one ends the job, so that no rank
// waits for one that has gone.
#include <c10/core/InferenceMode.h>

#include <csignal>

#include "app/catalogue.h"
#include "app/program.h"
#include "base/log.h"

int main(int argc, char** argv) {
  using vax::app::ExitCode;
  // A file-size limit shall be a failed write with a message, not a death; nor shall the reader of
  // the log (`| tee log`) take a run with it when it goes.
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  try {
    const vax::app::Catalogue catalogue = vax::app::built_in_catalogue();
    if (vax::app::print_information(argc, argv, catalogue)) return ExitCode::kDone;
    vax::dist::Environment environment(&argc, &argv);
    vax::log::set_rank(environment.rank(), environment.world_size());
    const c10::InferenceMode no_autograd;
    try {
      return vax::app::run_program(argc, argv, catalogue, environment);
    } catch (const vax::app::AgreedError& e) {
      if (environment.rank() == 0) vax::log::error(e.what());
      return e.code();
    } catch (const std::exception& e) {
      vax::log::error(e.what());
      if (environment.world_size() > 1) vax::dist::Environment::abort(vax::app::exit_code_of(e));
      return vax::app::exit_code_of(e);
    }
  } catch (const std::exception& e) {
    vax::log::error(e.what());
    return vax::app::exit_code_of(e);
  }
}
