// Supervised fine-tuning: one pass of cross entropy, a work of kind 0.
#pragma once

#include <ATen/core/Tensor.h>

#include "train/method.h"

namespace vax::vaccine {

class SftMethod final : public train::Method {
 public:
  explicit SftMethod(const train::MethodContext& context);
  train::StepOutcome step(train::Engine& engine) override;

 private:
  at::Tensor loss_sum_;  // fp64, one element, where the model computes
};

train::MethodEntry sft_entry();

}  // namespace vax::vaccine
