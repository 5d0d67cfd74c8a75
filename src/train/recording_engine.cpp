#include "train/recording_engine.h"

#include <utility>

namespace vax::train {

RecordingEngine::RecordingEngine(const model::Model& model)
    : uses_(model.unit_uses(/*with_backward=*/true)),
      gradient_uses_(model.gradient_uses()),
      alone_(dist::make_self_collectives()) {}

Recording RecordingEngine::record(Method& method, int64_t step,
                                  std::vector<size_t> micro_batches_of_streams) {
  step_ = step;
  num_micro_batches_ = std::move(micro_batches_of_streams);
  recording_ = {};
  is_reduced_ = true;
  method.step(*this);
  if (!is_reduced_) reduce();
  return std::move(recording_);
}

void RecordingEngine::pass(const MicroBatches& micro_batches, const PassSpec& spec) {
  recording_.passes.push_back({.weights = spec.weights,
                               .weight_gradients = spec.weight_gradients,
                               .micro_batches = micro_batches,
                               .kept_bytes = spec.kept_bytes,
                               .kept_bytes_per_token = spec.kept_bytes_per_token});
  const bool probe = spec.weights == PassWeights::kProbe;
  for (size_t i = 0; i < micro_batches.count; ++i) {
    for (const int unit : uses_)
      recording_.segments.back().push_back({.unit = unit, .probe = probe});
    if (!spec.weight_gradients) continue;
    is_reduced_ = false;
    recording_.gradient_releases.insert(recording_.gradient_releases.end(), gradient_uses_.begin(),
                                        gradient_uses_.end());
  }
}

const ShardVector& RecordingEngine::reduce() {
  ++recording_.num_reductions;
  is_reduced_ = true;
  return none_;
}

}  // namespace vax::train
