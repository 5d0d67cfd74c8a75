// vaccine export: the model with its adapters merged, as a Hugging Face directory that transformers
// loads. The sum W + scale B A is formed in fp32 and rounded once, to model.dtype.
#include "app/model_loading.h"
#include "app/session.h"
#include "base/error.h"
#include "base/log.h"
#include "train/saver.h"

namespace vax::app {

void run_export(const Session& session) {
  const Options& options = session.options;
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
