// The training loop, the same for both stages and all methods: global batches, the method's
// gradient from the engine, clipping, sharded AdamW, metrics. Every rank runs it in step; what
// decides control flow (losses, norms) is the same number on all ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <vector>

#include "data/dataset.h"
#include "data/sampler.h"
#include "io/run_records.h"
#include "train/run_outputs.h"
#include "train/train_options.h"
#include "train/training_engine.h"

namespace vax::train {

// Training cannot go on: a loss or a gradient is not finite.
class DivergenceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A data stream; borrowed.
struct DataStream {
  const data::Dataset& dataset;
  int64_t global_batch = 1;
};

struct TrainerInputs {
  TrainingEngine& engine;
  TrainOptions options;
  bool shuffle = true;
  int64_t max_length = 0;           // ids that the samples were cut to: for messages
  std::vector<DataStream> streams;  // the run's data, then those that the method declares
  // Called after every step and before the first (step 0, to keep the reference); the record of
  // rank 0 is written. COLLECTIVE. May be empty.
  std::function<std::optional<io::DriftRecord>(int64_t step, bool is_last)> measure_drift;
};

struct TrainingRun {
  int64_t steps_done = 0;         // of a run that is gone on with
  RunOutputs* outputs = nullptr;  // rank 0 only
  // Called after every step, COLLECTIVE; true ends the run there. May be empty.
  std::function<bool(int64_t step)> after_step;
};

// max_steps, or epochs times the steps of an epoch, rounded up.
int64_t num_training_steps(const TrainOptions& options, int64_t steps_per_epoch);

class Trainer {
 public:
  explicit Trainer(const TrainerInputs& inputs);

  // THROWS DataError for the first of all steps in which a stream's global batch has no label:
  // before anything is written, on every rank alike. No communication.
  void check_batches();
  // Keeps what later steps are measured against: the weights that a run starts from. A run that is
  // gone on with starts from them too and gets its checkpoint's afterwards. COLLECTIVE.
  void keep_reference();
  // The steps after run.steps_done. Returns the steps done in all. THROWS DivergenceError before an
  // update with non-finite numbers. REQUIRES check_batches(). COLLECTIVE.
  int64_t run(const TrainingRun& run);
  int64_t num_steps() const { return num_steps_; }
  int64_t steps_per_epoch() const { return samplers_[0].steps_per_epoch(); }

 private:
  struct StepNorms {
    double grad_norm, lr;
  };
  io::StepRecord run_step(int64_t step);
  StepNorms update(int64_t step, double loss);
  void check_finite(int64_t step, double loss, double grad_norm) const;
  std::optional<io::DriftRecord> observe_drift(int64_t step);

  TrainerInputs in_;
  std::vector<data::Sampler> samplers_;  // by stream
  int64_t num_steps_;
};

}  // namespace vax::train
