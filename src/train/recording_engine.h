// An engine that computes nothing and writes down what a step would do: whose units it uses, in
// which order, what its passes need and keep, what it reduces. The schedule of gathers is made from
// the record before the step runs, and `vaccine plan` and a run's memory report read the same
// record: what is planned is what the method does. No communication, no weights.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/model.h"
#include "train/engine.h"
#include "train/method.h"
#include "train/sharded_weights.h"

namespace vax::train {

// One pass over micro-batches, as the plan sees it.
struct RecordedPass {
  PassWeights weights = PassWeights::kUpdate;
  bool weight_gradients = true;
  MicroBatches micro_batches;
  // What its visitors keep of these micro-batches.
  int64_t kept_bytes = 0, kept_bytes_per_token = 0;

  bool keeps() const { return kept_bytes > 0 || kept_bytes_per_token > 0; }
};

// One step.
struct Recording {
  // Units' weights in the order in which they are acquired. A new segment begins where the weights
  // change within the step: what was gathered of trainable units before is stale there.
  std::vector<std::vector<UnitUse>> segments = {{}};
  // Units in the order in which their gradients are released.
  std::vector<int> gradient_releases;
  std::vector<RecordedPass> passes;
  int64_t num_reductions = 0;
};

class RecordingEngine final : public Engine {
 public:
  explicit RecordingEngine(const model::Model& model);

  // What `method` does in this step. `method` is changed by it: REQUIRES one that nothing else
  // runs, in the state of the one that does.
  Recording record(Method& method, int64_t step, std::vector<size_t> micro_batches_of_streams);

  int64_t step() const override { return step_; }
  size_t num_micro_batches(int stream) const override {
    return num_micro_batches_.at(static_cast<size_t>(stream));
  }
  int64_t label_tokens(int /*stream*/) const override { return 1; }
  void passes(int /*kind*/, const std::function<void()>& work) override { work(); }
  void pass(const MicroBatches& micro_batches, const PassSpec& spec) override;
  dist::Collectives& ranks() override { return *alone_; }
  at::TensorOptions sum_options() const override { return at::TensorOptions(at::kDouble); }
  std::vector<double> sum_over_ranks(const at::Tensor& sums, int64_t /*num_agreed*/) override {
    return std::vector<double>(static_cast<size_t>(sums.numel()), 0.0);
  }
  const ShardVector& reduce() override;
  double gradient_norm() override { return 0; }
  void clear_gradient() override {}
  ShardVector& vector(int /*index*/) override { return none_; }
  void move(const ShardVector& /*direction*/, double /*factor*/) override { change_weights(); }
  void restore() override { change_weights(); }

 private:
  void change_weights() { recording_.segments.emplace_back(); }

  std::vector<int> uses_, gradient_uses_;  // of one micro-batch
  std::unique_ptr<dist::Collectives> alone_;
  ShardVector none_;
  int64_t step_ = 1;
  std::vector<size_t> num_micro_batches_;
  bool is_reduced_ = true;
  Recording recording_;
};

}  // namespace vax::train
