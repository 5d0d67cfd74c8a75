// The Vaccine step (arXiv 2402.01109, algorithm 1): pass 1 finds the perturbation of the hidden
// states that raises the loss most within an L2 ball of radius rho, pass 2 takes the gradients
// under it. Pass 1 computes no weight gradient and ends at the first layer's boundary. It runs on
// the probe: the update's weights, or a copy of lower precision, whose direction is then compared
// with the exact one now and then.
#pragma once

#include <ATen/core/Tensor.h>

#include "train/method.h"
#include "vaccine/perturbation.h"
#include "vaccine/sft_method.h"
#include "vaccine/vaccine_options.h"

namespace vax::vaccine {

class VaccineMethod final : public train::Method {
 public:
  // THROWS ConfigError for layers the model does not have.
  VaccineMethod(const VaccineOptions& options, const train::MethodContext& context);

  train::StepOutcome step(train::Engine& engine) override;
  int64_t kept_bytes() const override { return perturbation_.num_bytes(); }

 private:
  // What is summed over the step, fp64 where the model computes: views of one tensor.
  struct Sums {
    Sums(int64_t num_layers, at::Device device);
    at::Tensor all;            // [L + 5]
    at::Tensor layer_squares;  // [L]
    at::Tensor clean_loss, loss;
    at::Tensor cosine;  // [3]
  };
  bool is_checked(int64_t step) const;
  // The passes over micro-batches that share one S.
  void find_perturbation(train::Engine& engine, const train::MicroBatches& group);
  void check_perturbation(train::Engine& engine, const train::MicroBatches& group);
  void train_perturbed(train::Engine& engine, const train::MicroBatches& group);
  // All passes of a step; the host does not wait for their results.
  void run_passes(train::Engine& engine, bool checked);
  train::StepOutcome outcome_of(train::Engine& engine, bool checked);

  VaccineOptions options_;
  int num_layers_;
  bool has_probe_;
  KeptStates kept_;
  SftMethod one_pass_;
  Perturbation perturbation_;
  Sums sums_;
  double pass1_s_ = 0;
};

train::MethodEntry vaccine_entry();

}  // namespace vax::vaccine
