// The training loop, the same for both stages and all methods: global batch, gradients by the step
// method, clipping, sharded AdamW, metrics. Every rank runs it in step; what decides control flow
// (losses, norms) is the same number on all ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>

#include "data/data_options.h"
#include "data/dataset.h"
#include "data/packing.h"
#include "data/sampler.h"
#include "io/run_records.h"
#include "train/mesh.h"
#include "train/model_state.h"
#include "train/optimizer.h"
#include "train/run_outputs.h"
#include "train/step_method.h"
#include "train/step_plan.h"
#include "train/train_options.h"

namespace vax::train {

// Training cannot go on: a loss or a gradient is not finite.
class DivergenceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct TrainerInputs {
  const TrainOptions& train;
  const DataOptions& data;
  Mesh& mesh;
  ModelState& state;
  const data::Dataset& dataset;
  double dropout = 0;  // of the adapter
  Graphs graphs = Graphs::kAuto;
  std::optional<double> rho;  // train.method vaccine: vaccine.rho
  // Makes the step method; called once.
  std::function<std::unique_ptr<StepMethod>(const StepContext&)> make_method;
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

  // THROWS DataError for the first of all steps whose global batch has no label: before anything is
  // written, on every rank alike. No communication.
  void check_batches();
  // Keeps what later steps are measured against: the weights that a run starts from. A run that is
  // gone on with starts from them too and gets its checkpoint's afterwards. COLLECTIVE.
  void keep_reference();
  // The steps after run.steps_done. Returns the steps done in all. THROWS DivergenceError before an
  // update with non-finite numbers. REQUIRES check_batches(). COLLECTIVE.
  int64_t run(const TrainingRun& run);
  int64_t num_steps() const { return num_steps_; }
  int64_t steps_per_epoch() const { return sampler_.steps_per_epoch(); }
  ShardedAdamW& optimizer() { return optimizer_; }
  // What this rank has needed so far, drift left out. Activations need count_tensor_memory().
  MemoryParts measured_memory() const;

 private:
  struct StepNorms {
    double grad_norm, lr;
  };
  io::StepRecord run_step(int64_t step);
  StepOutcome run_method(const StepBatch& batch);
  StepNorms apply_gradients(int64_t step, double loss);
  double waited_s() const;  // for other ranks, so far
  void reduce_over_replicas();
  void check_finite(int64_t step, double loss, double grad_norm) const;
  std::optional<io::DriftRecord> observe_drift(int64_t step);

  TrainerInputs in_;
  data::Sampler sampler_;
  int64_t num_steps_;
  dist::ShardedGradients gradients_;
  ShardedGradientSink sink_;
  ShardedAdamW optimizer_;
  std::unique_ptr<StepMethod> method_;
  int64_t most_activations_ = 0, most_kept_ = 0;  // bytes, over the steps so far
};

}  // namespace vax::train
