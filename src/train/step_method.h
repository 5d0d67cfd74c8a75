// What distinguishes training methods: how one global batch becomes gradients. The trainer does the
// rest (data, clipping, optimizer, metrics).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/packed_batch.h"
#include "dist/comm/call_log.h"
#include "dist/comm/collectives.h"
#include "model/model.h"
#include "model/weights.h"
#include "train/train_options.h"

namespace vax::train {

// A model with the weights that it computes with.
struct PassModel {
  const model::Model& model;
  model::WeightSource& weights;
};

// One use of a unit's weights: by the pass that makes the update, or by the probe.
struct UnitUse {
  int unit;
  bool probe = false;
  bool operator==(const UnitUse&) const = default;
};

// What a step method works with; everything is borrowed and outlives the method.
struct StepContext {
  PassModel update;
  PassModel probe;  // finds perturbations; the same as `update`, or of lower precision
  model::GradientSink& gradients;
  dist::Collectives& world;  // of host memory
  const TrainOptions& train;
  double dropout = 0;              // of the adapter
  dist::CallLog* calls = nullptr;  // told which pass runs; null: nobody is
  // Of the memory of tensors; null: `world`, the tensors lie on the host.
  dist::Collectives* device_world = nullptr;
  // Passes are captured and replayed. REQUIRES a device, one rank, and weights that need no
  // gathering.
  bool use_graphs = false;

  dist::Collectives& tensor_world() const {
    return device_world != nullptr ? *device_world : world;
  }
  at::TensorOptions sum_options() const {
    return at::TensorOptions(at::kDouble).device(update.model.device());
  }

  // REQUIRES a static text.
  void set_phase(const char* phase) const {
    if (calls != nullptr) calls->set_phase(phase);
  }
};

// This rank's part of one global batch. Every rank has the same number of micro-batches; those
// beyond its rows are empty.
struct StepBatch {
  int64_t step = 1;  // 1-based
  std::span<const PackedBatch> micro_batches;
  int64_t label_tokens = 0;  // N, over the whole global batch, > 0
};

// Sums over all ranks.
struct StepOutcome {
  double loss = 0;        // mean token cross entropy of the pass that made the gradients
  double clean_loss = 0;  // of pass 1; equals loss for one pass
  // Of a two-pass step: squared L2 norm per layer of the hidden-state gradients; their sum is the
  // square of hidden_grad_norm. Empty for one pass.
  std::vector<double> layer_squares;
  double pass1_s = 0;  // of the host; 0 where it does not wait for a device
  // Between the probe's perturbation and that of the update's precision, where it was measured.
  std::optional<double> probe_cosine;
};

class StepMethod {
 public:
  virtual ~StepMethod() = default;
  // Adds this rank's gradients of the mean loss over the global batch to the sink.
  // COLLECTIVE over world.
  virtual StepOutcome run(const StepBatch& batch) = 0;
  // The units that run() will acquire for this step, in order.
  virtual std::vector<UnitUse> unit_uses(int64_t step, size_t num_micro_batches) const = 0;
  // Bytes that the method keeps between passes, until the next run().
  virtual int64_t kept_bytes() const { return 0; }
};

class StepPasses;

// One pass of cross entropy.
class SftMethod : public StepMethod {
 public:
  explicit SftMethod(StepContext context);
  ~SftMethod() override;
  StepOutcome run(const StepBatch& batch) override;
  std::vector<UnitUse> unit_uses(int64_t step, size_t num_micro_batches) const override;

 private:
  StepContext context_;
  std::unique_ptr<StepPasses> passes_;
  at::Tensor loss_sum_;  // fp64, one element, on the device
};

// Appends the uses of `count` forward and backward passes.
void append_uses(const model::Model& model, size_t count, bool probe, std::vector<UnitUse>& uses);

}  // namespace vax::train
