// The steps from options to a loaded model and its data that several subcommands share.
#pragma once

#include <memory>
#include <vector>

#include "app/session.h"
#include "base/packed_batch.h"
#include "data/dataset.h"
#include "data/tokenizer.h"
#include "model/spec.h"
#include "train/mesh.h"
#include "train/model_state.h"

namespace vax::app {

// What config.json in this directory states. THROWS DataError.
model::Spec read_spec(const Session& session, const std::string& directory);

// The tokenizer of model.path. THROWS ConfigError when it has more ids than the embedding rows.
data::Tokenizer load_tokenizer(const Session& session);

// The groups that the placements of [shard] ask for; `probe_is_trainable` as train::make_mesh.
// COLLECTIVE. THROWS ConfigError on all ranks.
train::Mesh make_mesh(const Session& session, bool probe_is_trainable);

// Loads on every rank, failing together. COLLECTIVE.
std::unique_ptr<train::ModelState> load_model(const Session& session, train::Mesh& mesh,
                                              train::ModelRequest request);

// The first drift.samples rows of drift.path in file order, in batches of drift.batch.
std::vector<PackedBatch> drift_batches(const Session& session, const data::Tokenizer& tokenizer);

// THROWS ConfigError when a sample is longer than the model's positions.
void check_lengths(const Session& session, const data::Dataset& dataset);

}  // namespace vax::app
