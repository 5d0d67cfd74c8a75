// Training on this rank: the groups of ranks, the model's planes of weights, gradients, optimizer
// and passes, and the method that makes steps of them. `vaccine align`, the tests and the
// benchmarks run this one. A step is
//   1. record    the method's twin runs on a recorder: which units are used in which order
//   2. announce  every plane is told its uses; gathers begin
//   3. method    passes add to the gradient (train/pass_engine.h), whose units are reduced to this
//                rank's shards while the passes go on
//   4. reduce    the reductions end; shards are summed over the replicas
// then the caller asks for the norm, and updates.
// Every call but those that are const is COLLECTIVE: all ranks, in the same order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "train/mesh.h"
#include "train/method.h"
#include "train/model_state.h"
#include "train/optimizer.h"
#include "train/pass_engine.h"
#include "train/recording_engine.h"
#include "train/step_plan.h"

namespace vax::train {

struct EngineSettings {
  TrainOptions train;
  double dropout = 0;       // of the adapter
  bool use_graphs = false;  // REQUIRES passes_gather_nothing()
};

// Makes a method of the same kind and options for a model: once to run, once to be recorded.
struct MethodMaker {
  MethodDeclaration declaration;
  std::function<std::unique_ptr<Method>(const MethodContext&)> make;
};
// The method of an entry with these options.
MethodMaker maker_of(const MethodEntry& entry, const Options& options);

// Does a step on this mesh gather no weights, so that its passes can be captured?
bool passes_gather_nothing(const Mesh& mesh, const ModelState& state);

class TrainingEngine final : public PassEngine {
 public:
  // `state`: allocated and published.
  TrainingEngine(Mesh mesh, std::unique_ptr<ModelState> state, const EngineSettings& settings);
  TrainingEngine(const TrainingEngine&) = delete;
  TrainingEngine& operator=(const TrainingEngine&) = delete;
  ~TrainingEngine() override;

  // A method for the steps from now on; those added before stay, with their state and vectors, and
  // can be used again by the number that this returned. THROWS ConfigError for a method that does
  // not fit the model.
  int add_method(const MethodMaker& method);
  void use_method(int number);
  // The reduced gradient of the mean loss over the global batch, and what the method measured.
  // REQUIRES a method.
  StepOutcome run(const StepBatch& batch);
  // One update with the gradient scaled by `grad_scale`.
  void update(double lr, double grad_scale);
  // No step is announced: for whoever acquires units in another order.
  void end_steps();

  const ShardVector& reduce() override;
  double gradient_norm() override;
  void clear_gradient() override;
  ShardVector& vector(int index) override;
  void move(const ShardVector& direction, double factor) override;
  void restore() override;

  Mesh& mesh();
  ModelState& state();
  ShardedAdamW& optimizer();
  // The last reduced one.
  const ShardVector& gradient() const { return gradient_; }
  // Of the method in use.
  Method& method();
  const MethodDeclaration& declaration() const;
  // What this rank has needed so far. Activations need count_tensor_memory().
  MemoryParts measured_memory() const;
  // Host seconds that this rank has waited for others.
  double waited_s() const;

 private:
  struct Parts;  // what passes borrow: it is there before them
  // A method and what it has here.
  struct Slot {
    MethodDeclaration declaration;
    std::unique_ptr<Method> method, twin;  // the twin is recorded
    std::vector<ShardVector> vectors;
    ShardVector unmoved;  // copies of the weights' shards, for restore()
  };
  explicit TrainingEngine(std::unique_ptr<Parts> parts);

  Slot& slot() const;
  void begin_segment(size_t segment);
  void change_weights(const std::function<void(int unit, at::Tensor& shard)>& change);
  ShardVector zeros_like_shards();

  std::unique_ptr<Parts> parts_;
  std::vector<std::unique_ptr<Slot>> slots_;
  RecordingEngine recorder_;
  Recording recording_;  // of the running step
  size_t segment_ = 0;   // of the recording
  ShardVector gradient_;
  bool is_reduced_ = true, is_moved_ = false;
  int64_t most_activations_ = 0, most_kept_ = 0;  // bytes, over the steps so far
};

}  // namespace vax::train
