// vaccine rebuild: run.h5 from run.jsonl, for a run that was killed or that still goes on. Rank 0
// does it.
#include <filesystem>
#include <iostream>

#include "app/session.h"
#include "base/error.h"
#include "io/run_rebuild.h"
#include "train/output_options.h"
#include "train/step_figures.h"

namespace vax::app {
namespace {

std::string summary_text(const io::RunSummary& summary) {
  std::string text = cat(summary.num_steps, " steps");
  if (summary.num_steps > 0) text += cat(" (the last is ", summary.last_step, ")");
  text += cat(", ", summary.num_drifts, " drift measurements");
  if (!summary.has_ended) text += ", the run has not ended";
  if (summary.is_cut) text += ", its last line is cut off and left out";
  return text;
}

}  // namespace

void run_rebuild(const Session& session) {
  together(session.world, [&] {
    if (!session.is_root()) return;
    const std::filesystem::path directory = session.options.get<OutputOptions>().dir;
    const io::RunSummary summary =
        io::rebuild_run_file(directory / "run.jsonl", train::step_figures(), directory / "run.h5");
    std::cout << "wrote " << (directory / "run.h5").string() << ": " << summary_text(summary)
              << std::endl;
  });
}

}  // namespace vax::app
