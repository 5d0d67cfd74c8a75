// What stands between a step and its passes: the batch is brought to where the device reads it, and
// passes that have been run before with the same extents are replayed as a captured graph, where
// graphs are asked for. Invariant that is easy to break: what a replay does is what was captured,
// so nothing that changes from step to step may be in `work` but through PlacedStep's memory, and
// results may only leave it through memory that exists before.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "model/placed_batch.h"
#include "ops/device/runtime.h"
#include "train/step_method.h"

namespace vax::train {

// The inputs of a step's passes, in the memory of the device.
struct PlacedStep {
  std::vector<model::PlacedBatch> micro_batches;
  at::Tensor loss_scale;  // 1 / N, fp64, one element
  // Of the update's masks and of masks that a probe has for itself. Keys lie on the device, two
  // words each, and count there; null on a host, where the streams do.
  std::array<uint64_t, 2> dropout_streams{};
  std::array<const uint32_t*, 2> dropout_keys{};
};

// Options of the pass that makes the gradients; the same for every method, so that a two-pass step
// with rho = 0 is a one-pass step bit for bit.
model::PassOptions update_pass_options(const StepContext& context, const PlacedStep& step);

class StepPasses {
 public:
  explicit StepPasses(const StepContext& context);

  // Runs `work` on the batch, or replays what it did. Two works with equal `kind` and extents do
  // the same operations. The host does not wait for the device. A work is kept: what it refers to
  // must live as long as this object.
  void run(const StepBatch& batch, int kind, const std::function<void(const PlacedStep&)>& work);

  // Beyond so many graphs, each of which holds megabytes, further passes are run as they are.
  static constexpr int64_t kMostGraphs = 64;
  int64_t num_captured() const;  // graphs so far

 private:
  struct Numbers;  // 1 / N and the keys, on the device
  struct Captured;
  using Key = std::vector<int64_t>;

  void run_placed(const StepBatch& batch, const std::function<void(const PlacedStep&)>& work);
  Captured& captured(const StepBatch& batch, int kind);
  PlacedStep numbers_of(const StepBatch& batch) const;
  void note_gradients();

  StepContext context_;
  std::shared_ptr<Numbers> numbers_;
  std::map<Key, std::shared_ptr<Captured>> captured_;
};

}  // namespace vax::train
