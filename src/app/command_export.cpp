// vaccine export: the model with its adapters merged, as a Hugging Face directory that transformers
// loads. The sum W + scale B A is formed in fp32 and rounded once, to model.dtype. Or what a
// checkpoint holds, as a directory of its kind.
#include <optional>

#include "app/checkpoint_export.h"
#include "app/model_loading.h"
#include "app/session.h"
#include "base/error.h"
#include "base/log.h"
#include "train/resume.h"
#include "train/saver.h"

namespace vax::app {

namespace {

void export_from_checkpoint(const Session& session) {
  const Options& options = session.options;
  std::optional<io::CheckpointReader> checkpoint;
  try {
    checkpoint = train::open_checkpoint(session.world, options.checkpoint.path);
  } catch (const DataError& e) {
    throw AgreedError(e.what(), kBadInput);
  }
  together(session.world, [&] {
    if (session.is_root()) export_checkpoint(*checkpoint, options);
  });
  if (session.is_root())
    log::info(cat("wrote ", options.output.dir, " from step ", checkpoint->manifest().position.step,
                  " of the run"));
}

}  // namespace

void run_export(const Session& session) {
  const Options& options = session.options;
  if (!options.checkpoint.path.empty()) return export_from_checkpoint(session);
  train::Mesh mesh = make_mesh(session, false);
  // As weights to be trained: with fp32 masters.
  const auto state = load_model(session, mesh,
                                {.model = options.model,
                                 .merge = options.adapter.merge,
                                 .shard = options.shard,
                                 .train_base = true});
  train::save_model(*state, options.output.dir, options.model.path, session.is_root());
  if (session.is_root()) log::info(cat("wrote ", options.output.dir));
}

}  // namespace vax::app
