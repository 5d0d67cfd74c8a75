// The Vaccine step (arXiv 2402.01109, algorithm 1): pass 1 finds the perturbation of the hidden
// states that raises the loss most within an L2 ball of radius rho, pass 2 takes the gradients
// under it. Pass 1 computes no weight gradient and ends at the first layer's boundary. It runs on
// the context's probe: the update's weights, or a copy of lower precision, whose direction is then
// compared with the exact one now and then.
#pragma once

#include "train/step_method.h"
#include "train/step_passes.h"
#include "train/step_plan.h"
#include "vaccine/perturbation.h"
#include "vaccine/probe_check.h"

namespace vax::vaccine {

// The uses of `step`, and what a step keeps; `probe` null: pass 1 runs on the update's weights.
train::MethodPlan vaccine_plan(const VaccineOptions& options, const TrainOptions& train,
                               const model::Model& model, const model::Model* probe, int64_t step,
                               size_t num_micro_batches);

class VaccineMethod : public train::StepMethod {
 public:
  // THROWS ConfigError for layers the model does not have.
  VaccineMethod(train::StepContext context, const VaccineOptions& options);

  train::StepOutcome run(const train::StepBatch& batch) override;
  std::vector<train::UnitUse> unit_uses(int64_t step, size_t num_micro_batches) const override;
  int64_t kept_bytes() const override { return perturbation_.num_bytes(); }

 private:
  // Micro-batches [first, first + count) share one S.
  struct Group {
    size_t first, count;
  };
  const model::Model* own_probe() const {
    return &context_.probe.model != &context_.update.model ? &context_.probe.model : nullptr;
  }
  bool is_checked(int64_t step) const;
  // What is summed over the step, fp64 on the device: views of one tensor.
  struct Sums {
    explicit Sums(int64_t num_layers, const at::TensorOptions& options);
    at::Tensor all;            // [L + 5]
    at::Tensor layer_squares;  // [L]
    at::Tensor clean_loss, loss;
    at::Tensor cosine;  // [3]
  };
  // Forward and backward of pass 1 over a group; `record` gets (index in the group, layer, G_l).
  // Adds the cross entropies to `loss_sum`.
  template <typename Record>
  void run_probe(train::PassModel model, const train::PlacedStep& step, Group group,
                 at::Tensor& loss_sum, const Record& record);
  void find_perturbation(const train::PlacedStep& step, Group group);
  void check_perturbation(const train::PlacedStep& step, Group group);
  void train_perturbed(const train::PlacedStep& step, Group group);
  // All passes of a step; the host does not wait for their results.
  void run_passes(const train::PlacedStep& step, bool checked);
  train::StepOutcome outcome_of(const train::StepBatch& batch);

  train::StepContext context_;
  VaccineOptions options_;
  train::SftMethod one_pass_;
  train::StepPasses passes_;
  KeptStates kept_;
  Perturbation perturbation_;
  Sums sums_;
  double pass1_s_ = 0;
};

}  // namespace vax::vaccine
