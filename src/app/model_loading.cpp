#include "app/model_loading.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/log.h"
#include "data/data_options.h"
#include "data/packing.h"
#include "model/families/built_in.h"
#include "train/model_options.h"
#include "train/shard_options.h"
#include "vaccine/drift_options.h"

namespace vax::app {
namespace {

std::string mebibytes(int64_t num_bytes) { return cat((num_bytes + (1 << 19)) >> 20, " MiB"); }

void report_model(const train::ModelRequest& request, train::ModelState& state) {
  log::info(cat("model: ", request.model.path, ", ", state.num_parameters(), " parameters, ",
                state.num_trainable(), " trainable, loaded in ", state.load_s(), " s"));
  const dist::ShardedUnits& frozen = state.frozen().units();
  const dist::ShardedUnits& trainable = state.trainable().units();
  log::info(cat("weights on this rank: frozen ", mebibytes(frozen.shard_bytes()), " + gathered ",
                mebibytes(frozen.slot_bytes()), ", trainable ", mebibytes(trainable.shard_bytes()),
                " + gathered ", mebibytes(trainable.slot_bytes())));
}

}  // namespace

model::Spec read_spec(const Options& options) {
  return model::built_in_families().read(std::filesystem::path(options.get<ModelOptions>().path) /
                                         "config.json");
}

data::Tokenizer load_tokenizer(const Options& options) {
  data::Tokenizer tokenizer = data::Tokenizer::load(options.get<ModelOptions>().path);
  const int64_t vocab_size = read_spec(options).vocab_size;
  if (tokenizer.vocab_size() > vocab_size)
    throw ConfigError(cat(options.get<ModelOptions>().path, ": the tokenizer has ",
                          tokenizer.vocab_size(),
                          " ids: expected at most vocab_size = ", vocab_size, " of config.json"));
  return tokenizer;
}

train::Mesh make_mesh(const Session& session, bool probe_is_trainable) {
  const auto& context = session.device.context;
  return train::make_mesh(session.world, session.world.split_by_node(),
                          session.options.get<ShardOptions>(), probe_is_trainable,
                          context ? &*context : nullptr);
}

std::unique_ptr<train::ModelState> load_model(const Session& session, train::Mesh& mesh,
                                              train::ModelRequest request) {
  request.device = session.device.device;
  request.on_device = session.device.context.has_value();
  std::unique_ptr<train::ModelState> state;
  together(session.world, [&] { state = std::make_unique<train::ModelState>(request); });
  state->allocate(mesh);
  together(session.world, [&] { state->read(); });
  state->publish();
  if (session.is_root()) report_model(request, *state);
  return state;
}

std::vector<PackedBatch> drift_batches(const Options& options, const data::Tokenizer& tokenizer) {
  const data::Dataset dataset =
      data::build_first_rows(options.get<DriftOptions>().path, options.get<DriftOptions>().samples,
                             options.get<DataOptions>(), tokenizer);
  check_lengths(dataset, options);
  std::vector<PackedBatch> batches;
  for (int64_t first = 0; first < dataset.size(); first += options.get<DriftOptions>().batch) {
    std::vector<const data::Sample*> samples;
    for (int64_t i = first; i < std::min(first + options.get<DriftOptions>().batch, dataset.size());
         ++i)
      samples.push_back(&dataset.samples[static_cast<size_t>(i)]);
    batches.push_back(data::pack(samples, first));
  }
  return batches;
}

void check_lengths(const data::Dataset& dataset, const Options& options) {
  const int64_t limit = read_spec(options).max_positions;
  for (const data::Sample& sample : dataset.samples)
    if (sample.size() > limit)
      throw ConfigError(cat("data.max_length: expected at most max_position_embeddings = ", limit,
                            " of ", options.get<ModelOptions>().path, ", found ",
                            options.get<DataOptions>().max_length, " and a sample of ",
                            sample.size(), " ids"));
}

}  // namespace vax::app
