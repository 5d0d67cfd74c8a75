// The Vaccine step (arXiv 2402.01109, algorithm 1): pass 1 finds the perturbation of the hidden
// states that raises the loss most within an L2 ball of radius rho, pass 2 takes the gradients
// under it. Pass 1 computes no weight gradient and ends at the first layer's boundary.
#pragma once

#include "train/step_method.h"
#include "vaccine/perturbation.h"

namespace vax::vaccine {

class VaccineMethod : public train::StepMethod {
 public:
  // THROWS ConfigError for layers the model does not have.
  VaccineMethod(train::StepContext context, const VaccineOptions& options);

  train::StepOutcome run(const train::StepBatch& batch) override;
  std::vector<int> unit_uses(int64_t step, size_t num_micro_batches) const override;

 private:
  // Micro-batches [first, first + count) share one S.
  struct Group {
    size_t first, count;
  };
  bool is_two_pass(int64_t step) const { return (step - 1) % options_.interval == 0; }
  size_t group_size(size_t num_micro_batches) const;
  double find_perturbation(const train::StepBatch& batch, Group group);
  double train_perturbed(const train::StepBatch& batch, Group group);

  train::StepContext context_;
  VaccineOptions options_;
  train::SftMethod one_pass_;
  Perturbation perturbation_;
};

}  // namespace vax::vaccine
