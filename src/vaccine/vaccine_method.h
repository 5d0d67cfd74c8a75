// The Vaccine step (arXiv 2402.01109, algorithm 1): pass 1 finds the perturbation of the hidden
// states that raises the loss most within an L2 ball of radius rho, pass 2 takes the gradients
// under it. Pass 1 computes no weight gradient and ends at the first layer's boundary. It runs on
// the context's probe: the update's weights, or a copy of lower precision, whose direction is then
// compared with the exact one now and then.
#pragma once

#include "train/step_method.h"
#include "train/step_plan.h"
#include "vaccine/perturbation.h"
#include "vaccine/probe_check.h"

namespace vax::vaccine {

// The uses of `step`, and what a step keeps; `probe` null: pass 1 runs on the update's weights.
train::MethodPlan vaccine_plan(const VaccineOptions& options, const TrainOptions& train,
                               const model::Llama& llama, const model::Llama* probe, int64_t step,
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
  const model::Llama* own_probe() const {
    return &context_.probe.llama != &context_.update.llama ? &context_.probe.llama : nullptr;
  }
  bool is_checked(int64_t step) const;
  // Forward and backward of pass 1 over a group; `record` gets (index in the group, layer, G_l).
  // Returns the sum of cross entropies.
  template <typename Record>
  double run_probe(train::PassModel model, const train::StepBatch& batch, Group group,
                   const Record& record);
  double find_perturbation(const train::StepBatch& batch, Group group);
  ops::CosineSums check_perturbation(const train::StepBatch& batch, Group group);
  double train_perturbed(const train::StepBatch& batch, Group group);

  train::StepContext context_;
  VaccineOptions options_;
  train::SftMethod one_pass_;
  Perturbation perturbation_;
};

}  // namespace vax::vaccine
