// What training methods are made of: the verbs of a step, without saying who carries them out. A
// method (train/method.h) is written once against this interface; TrainingEngine computes with it,
// RecordingEngine counts what it would do, for the schedule of gathers and for `vaccine plan`.
// Invariant that is easy to break: which verbs a step uses, in which order and on how many
// micro-batches, is decided by the step's number and the method's state alone, never by what the
// step computes, for the recorder computes nothing. SHAPES as in model/model.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "dist/comm/collectives.h"

namespace vax::train {

// Consecutive micro-batches of one data stream of the step (0: the run's own data; then those that
// the method declares, in order).
struct MicroBatches {
  int stream = 0;
  size_t first = 0, count = 0;
};

// Called between the halves of block `layer` for micro-batch `index` of those that the pass runs
// over; as model::ForwardBoundary and model::BackwardBoundary otherwise.
using ForwardVisitor =
    std::function<void(size_t index, int layer, const at::Tensor& e_TD, at::Tensor& h_TD)>;
using BackwardVisitor = std::function<void(size_t index, int layer, const at::Tensor& grad_TD)>;

// Whose weights a pass runs on: the update's, or the probe's (of lower precision where the method
// asked for such; else the update's too).
enum class PassWeights { kUpdate, kProbe };

// One forward and backward of the mean cross entropy of a stream's global batch.
struct PassSpec {
  const char* name = "pass";  // a static text: where a hang is reported
  PassWeights weights = PassWeights::kUpdate;
  // Weight gradients are added to the gradient. Without them the backward ends at the boundary of
  // the first layer.
  bool weight_gradients = true;
  double factor = 1;       // on the loss that is differentiated
  bool own_masks = false;  // dropout masks of their own, not those of the stream's other passes
  ForwardVisitor forward_boundary;
  BackwardVisitor backward_boundary;
  at::Tensor loss_sum;  // the sum of cross entropies is added: fp64, one element, as sum_options()
  // What the visitors keep until the next pass that keeps something: for the memory plan.
  int64_t kept_bytes = 0, kept_bytes_per_token = 0;
};

// One fp32 tensor [shard_count] a unit of trainable weights: this rank's part of a vector that is
// shaped like them. Empty on a recorder.
using ShardVector = std::vector<at::Tensor>;

class Engine {
 public:
  virtual ~Engine() = default;

  // The step: its number (1-based), this rank's micro-batches (every rank has as many), and N, the
  // label tokens of a stream's whole global batch.
  virtual int64_t step() const = 0;
  virtual size_t num_micro_batches(int stream = 0) const = 0;
  virtual int64_t label_tokens(int stream = 0) const = 0;
  MicroBatches all(int stream = 0) const {
    return {.stream = stream, .first = 0, .count = num_micro_batches(stream)};
  }

  // Runs `work`, which makes passes and touches tensors where the model computes, and does nothing
  // else. Where graphs are asked for it is captured and from then on replayed: two works of equal
  // `kind` over batches of equal extents do the same operations, what differs from step to step
  // comes through the engine, and results leave through tensors that exist before.
  virtual void passes(int kind, const std::function<void()>& work) = 0;
  // REQUIRES that passes() is running. COLLECTIVE. The host does not wait for a device.
  virtual void pass(const MicroBatches& micro_batches, const PassSpec& spec) = 0;

  // All ranks, for sums of tensors where the model computes.
  virtual dist::Collectives& ranks() = 0;
  // Options of tensors that such sums are made in: fp64, where the model computes.
  virtual at::TensorOptions sum_options() const = 0;
  // The numbers of `sums` [n] (fp64), added up over the ranks from element `num_agreed` on: those
  // before are equal on all of them. COLLECTIVE. BLOCKS host until a device has them. Zeros from a
  // recorder.
  virtual std::vector<double> sum_over_ranks(const at::Tensor& sums, int64_t num_agreed = 0) = 0;

  // Ends what passes have added: this rank's shards of the gradient, summed over all ranks; may be
  // written until the update. Called by the step at its end where the method has not. COLLECTIVE.
  virtual const ShardVector& reduce() = 0;
  // L2 norm of the whole reduced gradient. COLLECTIVE. BLOCKS host.
  virtual double gradient_norm() = 0;
  // The gradient is zero again: for a method that makes several. REQUIRES reduce() before.
  virtual void clear_gradient() = 0;

  // The vector that the method declared at this place.
  virtual ShardVector& vector(int index) = 0;
  // Weights become w + factor * direction, masters and every copy, until restore() puts them back
  // bit for bit. REQUIRES a method that declares `moves_weights`, and no move before restore().
  // COLLECTIVE.
  virtual void move(const ShardVector& direction, double factor) = 0;
  virtual void restore() = 0;
};

}  // namespace vax::train
