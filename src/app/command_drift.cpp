// vaccine drift: how far the hidden states of one checkpoint lie from those of another, over the
// same data. Checkpoint: model.path with adapter.merge; reference: drift.reference_path with
// drift.reference_merge. One model is in memory at a time.
#include <cmath>
#include <cstdio>
#include <iostream>
#include <numeric>

#include "app/model_loading.h"
#include "app/resolved_config.h"
#include "app/session.h"
#include "base/error.h"
#include "base/log.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/run_outputs.h"
#include "train/shard_options.h"
#include "vaccine/drift.h"
#include "vaccine/drift_options.h"

namespace vax::app {
namespace {

train::ModelRequest base_request(const Options& options, const std::string& path,
                                 const std::vector<std::string>& merge) {
  ModelOptions model = options.get<ModelOptions>();
  if (!path.empty()) model.path = path;
  return {.model = model, .merge = merge, .shard = options.get<ShardOptions>()};
}

void print_table(const io::DriftRecord& record) {
  std::printf("%5s %14s %10s %8s %8s\n", "layer", "l2sq", "relative", "cosine", "cka");
  for (size_t l = 0; l < record.l2sq.size(); ++l)
    std::printf("%5zu %14.6g %10.4f %8.4f %8.4f\n", l,
                std::accumulate(record.l2sq[l].begin(), record.l2sq[l].end(), 0.0),
                record.relative[l], record.cosine[l], record.cka[l]);
}

void write_record(const Session& session, const io::DriftRecord& record) {
  const std::filesystem::path directory = session.options.get<OutputOptions>().dir;
  std::filesystem::create_directories(directory);
  io::RunLog log(directory / "drift.jsonl", {});
  log.write(record);
  io::RunFile file(
      directory / "drift.h5", {},
      {.config = to_ini(session.table(), session.options), .program_version = VAX_VERSION});
  file.append(record);
  file.flush();
}

}  // namespace

void run_drift(const Session& session) {
  const Options& options = session.options;
  train::Mesh mesh = make_mesh(session, false);
  std::vector<PackedBatch> batches;
  together(session.world, [&] { batches = drift_batches(session, load_tokenizer(session)); });
  vaccine::DriftMeter meter(std::move(batches), *mesh.world);
  {
    const auto reference =
        load_model(session, mesh,
                   base_request(options, options.get<DriftOptions>().reference_path,
                                options.get<DriftOptions>().reference_merge));
    meter.set_reference(reference->model(), reference->weights());
  }
  const auto state =
      load_model(session, mesh, base_request(options, "", options.get<AdapterOptions>().merge));
  const io::DriftRecord record = meter.measure(state->model(), state->weights(), 0);
  together(session.world, [&] {
    if (!session.is_root()) return;
    print_table(record);
    if (!options.get<OutputOptions>().dir.empty()) write_record(session, record);
  });
}

}  // namespace vax::app
