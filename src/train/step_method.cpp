#include "train/step_method.h"

#include "ops/dropout.h"

namespace vax::train {

model::PassOptions update_pass_options(const StepContext& context, const StepBatch& batch) {
  return {.loss_scale = 1.0 / static_cast<double>(batch.label_tokens),
          .dropout = context.dropout,
          .seed = context.train.seed,
          .dropout_stream = ops::dropout_stream(static_cast<uint64_t>(batch.step), 0),
          .recompute = context.train.recompute != "none"};
}

StepOutcome SftMethod::run(const StepBatch& batch) {
  const model::PassOptions options = update_pass_options(context_, batch);
  double loss_sum = 0;
  context_.set_phase("pass 1");
  for (const PackedBatch& micro_batch : batch.micro_batches)
    loss_sum += context_.update.llama.forward_backward(micro_batch, context_.update.weights,
                                                       &context_.gradients, options);
  context_.world.all_reduce(&loss_sum, 1, dist::DataType::kFloat64, dist::ReduceOp::kSum).wait();
  const double loss = loss_sum / static_cast<double>(batch.label_tokens);
  return {.loss = loss, .clean_loss = loss};
}

std::vector<UnitUse> SftMethod::unit_uses(int64_t /*step*/, size_t num_micro_batches) const {
  std::vector<UnitUse> uses;
  append_uses(context_.update.llama, num_micro_batches, false, uses);
  return uses;
}

void append_uses(const model::Llama& llama, size_t count, bool probe, std::vector<UnitUse>& uses) {
  const std::vector<int> once = llama.unit_uses(true);
  for (size_t i = 0; i < count; ++i)
    for (const int unit : once) uses.push_back({.unit = unit, .probe = probe});
}

}  // namespace vax::train
