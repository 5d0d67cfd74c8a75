// What a training run reads before its first step: the data of its streams, the batches that drift
// is measured on, an adapter that it goes on from; checked against the model and the checkpoint.
#pragma once

#include <vector>

#include "app/resuming.h"
#include "app/session.h"
#include "base/packed_batch.h"
#include "data/dataset.h"
#include "train/trainer.h"

namespace vax::app {

bool trains_adapter(const Options& options);

struct RunInputs {
  data::Dataset dataset;               // the run's data; its sources are those of all streams
  std::vector<data::Dataset> streams;  // that the method declares
  std::vector<PackedBatch> drift_batches;

  // Borrowed from this object.
  std::vector<train::DataStream> data_streams(const Options& options,
                                              const train::MethodDeclaration& method) const;
};

// Reads and checks everything; an adapter to go on from gives `options` its shape. THROWS
// AgreedError. COLLECTIVE.
RunInputs read_run_inputs(const Session& session, const ResumePoint& point,
                          const train::MethodMaker& method, Options& options);

}  // namespace vax::app
