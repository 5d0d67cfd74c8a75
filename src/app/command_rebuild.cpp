// vaccine rebuild: run.h5 from run.jsonl, for a run that was killed or that still goes on. Rank 0
// does it.
#include <filesystem>
#include <iostream>

#include "app/session.h"
#include "base/error.h"
#include "base/json.h"
#include "io/run_rebuild.h"
#include "train/output_options.h"

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

// The figures that the run's method declared: the log begins with the run's configuration.
io::Figures figures_of(const std::filesystem::path& log, const train::Methods& methods) {
  const Json config = Json::parse(io::read_start(log).config_json, log.string());
  const std::string method = config.required("train").required("method").text();
  return methods.find(method).declare(Options{}).figures;
}

}  // namespace

void run_rebuild(const Session& session) {
  together(session.world, [&] {
    if (!session.is_root()) return;
    const std::filesystem::path directory = session.options.get<OutputOptions>().dir;
    const std::filesystem::path log = directory / "run.jsonl";
    const io::RunSummary summary =
        io::rebuild_run_file(log, figures_of(log, session.catalogue.methods), directory / "run.h5");
    std::cout << "wrote " << (directory / "run.h5").string() << ": " << summary_text(summary)
              << std::endl;
  });
}

}  // namespace vax::app
