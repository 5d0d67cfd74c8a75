#include "vaccine/sft_method.h"

#include <ATen/ATen.h>

#include "vaccine/figures.h"

namespace vax::vaccine {

SftMethod::SftMethod(const train::MethodContext& context)
    : loss_sum_(at::zeros({}, at::TensorOptions(at::kDouble).device(context.device))) {}

train::StepOutcome SftMethod::step(train::Engine& engine) {
  engine.passes(0, [this, &engine] {
    loss_sum_.zero_();
    engine.pass(engine.all(), {.name = "pass 1", .loss_sum = loss_sum_});
  });
  const double loss =
      engine.sum_over_ranks(loss_sum_)[0] / static_cast<double>(engine.label_tokens());
  return {
      .loss = loss, .clean_loss = loss, .numbers = {std::nullopt, 0, std::nullopt}, .layers = {{}}};
}

train::MethodEntry sft_entry() {
  return {.name = "sft",
          .default_of = kFinetune,
          .declare = [](const Options&) -> train::MethodDeclaration {
            return {.figures = two_pass_figures()};
          },
          .make =
              [](const Options&, const train::MethodContext& context) {
                return std::make_unique<SftMethod>(context);
              }};
}

}  // namespace vax::vaccine
