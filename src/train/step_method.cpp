#include "train/step_method.h"

#include <ATen/ATen.h>

#include "ops/device/transfer.h"
#include "train/step_passes.h"

namespace vax::train {

SftMethod::SftMethod(StepContext context)
    : context_(context),
      passes_(std::make_unique<StepPasses>(context)),
      loss_sum_(at::zeros({}, context.sum_options())) {}

SftMethod::~SftMethod() = default;

StepOutcome SftMethod::run(const StepBatch& batch) {
  context_.set_phase("pass 1");
  passes_->run(batch, 0, [this](const PlacedStep& step) {
    const model::PassOptions options = update_pass_options(context_, step);
    loss_sum_.zero_();
    for (const model::PlacedBatch& micro_batch : step.micro_batches)
      context_.update.model.forward_backward(micro_batch, context_.update.weights,
                                             &context_.gradients, options, loss_sum_);
  });
  double loss_sum = ops::device::to_number(loss_sum_);
  context_.world.all_reduce(&loss_sum, 1, dist::DataType::kFloat64, dist::ReduceOp::kSum).wait();
  const double loss = loss_sum / static_cast<double>(batch.label_tokens);
  return {.loss = loss, .clean_loss = loss};
}

std::vector<UnitUse> SftMethod::unit_uses(int64_t /*step*/, size_t num_micro_batches) const {
  std::vector<UnitUse> uses;
  append_uses(context_.update.model, num_micro_batches, false, uses);
  return uses;
}

void append_uses(const model::Model& model, size_t count, bool probe, std::vector<UnitUse>& uses) {
  const std::vector<int> once = model.unit_uses(true);
  for (size_t i = 0; i < count; ++i)
    for (const int unit : once) uses.push_back({.unit = unit, .probe = probe});
}

}  // namespace vax::train
