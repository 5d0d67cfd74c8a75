// Where a training run starts: at its beginning or from a checkpoint, and what must agree then.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "app/session.h"
#include "data/dataset.h"
#include "io/checkpoint_reader.h"
#include "io/run_records.h"

namespace vax::app {

struct ResumePoint {
  std::optional<io::CheckpointReader> checkpoint;  // none: from the beginning
  std::vector<io::RejectedCheckpoint> rejected;
  bool is_foreign = false;  // the checkpoint is another directory's: the log starts anew

  int64_t steps_done() const { return checkpoint ? checkpoint->manifest().position.step : 0; }
};

// Where the checkpoints of a run lie.
std::filesystem::path checkpoint_root(const Options& options);

// By checkpoint.resume, verified. Changes nothing on the disk. COLLECTIVE. THROWS AgreedError: no
// checkpoint verifies, or a run would overwrite what an earlier one has left and output.overwrite
// does not allow it. A finished run goes on from its own checkpoints, to more steps or to the same
// end.
ResumePoint choose_resume_point(const Session& session);

// THROWS ConfigError, with both values, when the checkpoint belongs to a run whose remaining steps
// would be others: other data, order, batches, seed or adapter shape. Returns what else differs and
// changes numbers, in words.
std::vector<std::string> check_same_run(const OptionTable& table,
                                        const io::CheckpointManifest& manifest,
                                        const Options& options, const data::Dataset& dataset);

// On rank 0, once nothing can be refused any more: removes what killed runs have left half done and
// earlier requests to stop, and sets aside what the run will not go on from. THROWS WriteError.
void clear_way(const ResumePoint& point, const Options& options);

}  // namespace vax::app
