#include "app/model_loading.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/log.h"
#include "data/data_options.h"
#include "data/packing.h"
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

model::Spec read_spec(const Session& session, const std::string& directory) {
  return session.catalogue.families.read(std::filesystem::path(directory) / "config.json");
}

data::Tokenizer load_tokenizer(const Session& session) {
  const std::string& path = session.options.get<ModelOptions>().path;
  data::Tokenizer tokenizer = data::Tokenizer::load(path);
  const int64_t vocab_size = read_spec(session, path).vocab_size;
  if (tokenizer.vocab_size() > vocab_size)
    throw ConfigError(cat(path, ": the tokenizer has ", tokenizer.vocab_size(),
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
  together(session.world, [&] {
    state = std::make_unique<train::ModelState>(request, read_spec(session, request.model.path));
  });
  state->allocate(mesh);
  together(session.world, [&] { state->read(); });
  state->publish();
  if (session.is_root()) report_model(request, *state);
  return state;
}

std::vector<PackedBatch> drift_batches(const Session& session, const data::Tokenizer& tokenizer) {
  const auto& drift = session.options.get<DriftOptions>();
  const data::Dataset dataset = data::build_first_rows(
      drift.path, drift.samples, session.options.get<DataOptions>(), tokenizer);
  check_lengths(session, dataset);
  std::vector<PackedBatch> batches;
  for (int64_t first = 0; first < dataset.size(); first += drift.batch) {
    std::vector<const data::Sample*> samples;
    for (int64_t i = first; i < std::min(first + drift.batch, dataset.size()); ++i)
      samples.push_back(&dataset.samples[static_cast<size_t>(i)]);
    batches.push_back(data::pack(samples, first));
  }
  return batches;
}

void check_lengths(const Session& session, const data::Dataset& dataset) {
  const std::string& path = session.options.get<ModelOptions>().path;
  const int64_t limit = read_spec(session, path).max_positions;
  for (const data::Sample& sample : dataset.samples)
    if (sample.size() > limit)
      throw ConfigError(cat("data.max_length: expected at most max_position_embeddings = ", limit,
                            " of ", path, ", found ", session.options.get<DataOptions>().max_length,
                            " and a sample of ", sample.size(), " ids"));
}

}  // namespace vax::app
