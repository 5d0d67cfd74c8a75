// vaccine export: the model with its adapters merged, as a Hugging Face directory that transformers
// loads. The sum W + scale B A is formed in fp32 and rounded once, to model.dtype. Or what a
// checkpoint holds, as a directory of its kind.
#include <optional>

#include "app/checkpoint_export.h"
#include "app/model_loading.h"
#include "app/session.h"
#include "base/error.h"
#include "base/log.h"
#include "train/checkpoint_options.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/resume.h"
#include "train/saver.h"
#include "train/shard_options.h"

namespace vax::app {

namespace {

void export_from_checkpoint(const Session& session) {
  const Options& options = session.options;
  std::optional<io::CheckpointReader> checkpoint;
  try {
    checkpoint = train::open_checkpoint(session.world, options.get<CheckpointOptions>().path);
  } catch (const DataError& e) {
    throw AgreedError(e.what(), kBadInput);
  }
  together(session.world, [&] {
    if (session.is_root()) export_checkpoint(session.table(), *checkpoint, options);
  });
  if (session.is_root())
    log::info(cat("wrote ", options.get<OutputOptions>().dir, " from step ",
                  checkpoint->manifest().position.step, " of the run"));
}

}  // namespace

void run_export(const Session& session) {
  const Options& options = session.options;
  if (!options.get<CheckpointOptions>().path.empty()) return export_from_checkpoint(session);
  train::Mesh mesh = make_mesh(session, false);
  // As weights to be trained: with fp32 masters.
  const auto state = load_model(session, mesh,
                                {.model = options.get<ModelOptions>(),
                                 .merge = options.get<AdapterOptions>().merge,
                                 .shard = options.get<ShardOptions>(),
                                 .train_base = true});
  train::save_model(*state, options.get<OutputOptions>().dir, options.get<ModelOptions>().path,
                    session.is_root());
  if (session.is_root()) log::info(cat("wrote ", options.get<OutputOptions>().dir));
}

}  // namespace vax::app
