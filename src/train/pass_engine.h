// The part of an engine that computes: passes over the micro-batches of a step, brought to where
// the device reads them, and captured and replayed as graphs where those are asked for. Works on
// borrowed weights and a borrowed gradient sink; what becomes of the gradient is TrainingEngine's.
// Invariant that is easy to break: what a replay does is what was captured, so nothing that changes
// from step to step may reach a work but through the memory of its PlacedStream, and results may
// only leave it through memory that exists before.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/packed_batch.h"
#include "dist/comm/call_log.h"
#include "model/model.h"
#include "model/placed_batch.h"
#include "model/weights.h"
#include "ops/device/runtime.h"
#include "train/engine.h"
#include "train/train_options.h"

namespace vax::train {

// A model with the weights that it computes with.
struct PassModel {
  const model::Model& model;
  model::WeightSource& weights;
};

// What passes work with; everything is borrowed and outlives the engine.
struct PassInputs {
  PassModel update;
  PassModel probe;  // the same as `update`, or of lower precision
  model::GradientSink& gradients;
  dist::Collectives& world;  // of host memory
  // Of the memory of tensors; null: `world`, the tensors lie on the host.
  dist::Collectives* device_world = nullptr;
  const TrainOptions& train;
  double dropout = 0;              // of the adapter
  dist::CallLog* calls = nullptr;  // told which pass runs; null: nobody is
  // Passes are captured and replayed. REQUIRES a device, one rank, and weights that need no
  // gathering.
  bool use_graphs = false;
};

// What a pass without weight gradients saves is small: it recomputes only where all passes do.
bool recomputes(const TrainOptions& options, bool weight_gradients);

// This rank's part of one stream's global batch. Every rank has the same number of micro-batches;
// those beyond its rows are empty.
struct StreamBatch {
  std::span<const PackedBatch> micro_batches;
  int64_t label_tokens = 0;  // N, over the whole global batch, > 0
};
struct StepBatch {
  int64_t step = 1;                  // 1-based
  std::vector<StreamBatch> streams;  // the run's data, then those that the method declares
};

// The inputs of a stream's passes, in the memory of the device.
struct PlacedStream {
  std::vector<model::PlacedBatch> micro_batches;
  at::Tensor loss_scale;  // 1 / N, fp64, one element
  // Of the masks that the update's passes share and of masks of their own. Keys lie on the device,
  // two words each, and count there; null on a host, where the streams do.
  std::array<uint64_t, 2> dropout_streams{};
  std::array<const uint32_t*, 2> dropout_keys{};
};
using PlacedStep = std::vector<PlacedStream>;

class PassEngine : public Engine {
 public:
  // Beyond so many graphs, each of which holds megabytes, further passes are run as they are.
  static constexpr int64_t kMostGraphs = 64;

  int64_t step() const override { return batch_.step; }
  size_t num_micro_batches(int stream) const override {
    return stream_batch(stream).micro_batches.size();
  }
  int64_t label_tokens(int stream) const override { return stream_batch(stream).label_tokens; }
  void passes(int kind, const std::function<void()>& work) override;
  void pass(const MicroBatches& micro_batches, const PassSpec& spec) override;
  dist::Collectives& ranks() override {
    return inputs_.device_world != nullptr ? *inputs_.device_world : inputs_.world;
  }
  at::TensorOptions sum_options() const override;
  std::vector<double> sum_over_ranks(const at::Tensor& sums, int64_t num_agreed) override;

  int64_t num_captured() const;  // graphs so far

 protected:
  explicit PassEngine(const PassInputs& inputs);
  // The step that the verbs are about from here on; borrowed until the next one. THROWS
  // ConfigError, std::logic_error for batches that the model cannot take.
  void begin(const StepBatch& batch);
  // Whose works passes() is given from here on: those of equal kind but another owner differ.
  void set_owner_of_works(int owner) { owner_ = owner; }
  int owner_of_works() const { return owner_; }
  void set_phase(const char* phase) const;
  // The inputs of the running passes(); REQUIRES that it runs.
  const PlacedStream& placed(int stream) const;

 private:
  struct Numbers;  // 1 / N and the keys, on the device
  struct Captured;
  using Key = std::vector<int64_t>;

  const StreamBatch& stream_batch(int stream) const {
    return batch_.streams.at(static_cast<size_t>(stream));
  }
  PlacedStep numbers_of_step() const;
  Captured& captured(int kind);
  void run_on(const PlacedStep& placed, const std::function<void()>& work);
  void note_gradients();

  PassInputs inputs_;
  int owner_ = -1;
  StepBatch batch_;
  PlacedStep placed_;  // of a step that is not captured
  const PlacedStep* running_ = nullptr;
  bool adds_gradients_ = false;  // a pass of the running work does
  std::shared_ptr<Numbers> numbers_;
  std::map<Key, std::shared_ptr<Captured>> captured_;
};

}  // namespace vax::train
