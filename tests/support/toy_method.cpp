#include "support/toy_method.h"

#include <ATen/ATen.h>

#include <memory>

namespace vax::testing {
namespace {

constexpr int kHarmful = 1;                  // stream
constexpr int kDirection = 0, kAverage = 1;  // vectors
constexpr double kDecay = 0.9;

class ToyMethod final : public train::Method {
 public:
  ToyMethod(const ToyOptions& options, const train::MethodContext& context)
      : options_(options),
        losses_(at::zeros({2}, at::TensorOptions(at::kDouble).device(context.device))) {}

  train::StepOutcome step(train::Engine& engine) override {
    engine.passes(0, [&] {
      losses_.zero_();
      engine.pass(engine.all(kHarmful), {.name = "harmful rows", .loss_sum = losses_[1]});
    });
    train::ShardVector& direction = engine.vector(kDirection);
    const train::ShardVector& harmful = engine.reduce();
    for (size_t i = 0; i < harmful.size(); ++i) direction[i].copy_(harmful[i]);
    engine.move(direction, options_.distance / (engine.gradient_norm() + 1e-7));
    engine.clear_gradient();
    engine.passes(1, [&] { engine.pass(engine.all(), {.loss_sum = losses_[0]}); });
    engine.restore();
    const train::ShardVector& gradient = engine.reduce();
    train::ShardVector& average = engine.vector(kAverage);
    weight_ = kDecay * weight_ + 1 - kDecay;
    for (size_t i = 0; i < gradient.size(); ++i) {
      average[i].mul_(kDecay).add_(gradient[i], 1 - kDecay);
      gradient[i].add_(average[i], options_.strength / weight_);
    }
    const std::vector<double> sums = engine.sum_over_ranks(losses_);
    const double loss = sums[0] / static_cast<double>(engine.label_tokens());
    return {.loss = loss,
            .clean_loss = loss,
            .numbers = {sums[1] / static_cast<double>(engine.label_tokens(kHarmful))},
            .layers = {}};
  }

  train::MethodState state() const override { return {{"weight", {weight_}}}; }
  void set_state(const train::MethodState& state) override { weight_ = state.at("weight").at(0); }

 private:
  ToyOptions options_;
  at::Tensor losses_;
  double weight_ = 0;  // sum of the average's weights: the first steps count as much as later ones
};

}  // namespace

train::MethodEntry toy_entry() {
  return {.name = "toy",
          .options = option_section<ToyOptions>(),
          .declare = [](const Options& options) -> train::MethodDeclaration {
            return {
                .streams = {{.role = "harmful", .global_batch = options.get<ToyOptions>().batch}},
                .vectors = {{.name = "direction"}, {.name = "average", .is_state = true}},
                .moves_weights = true,
                .figures = {{.name = "harmful_loss",
                             .units = "nat",
                             .long_name = "mean cross entropy of the harmful rows",
                             .after = "clean_loss"}}};
          },
          .make =
              [](const Options& options, const train::MethodContext& context) {
                return std::make_unique<ToyMethod>(options.get<ToyOptions>(), context);
              }};
}

}  // namespace vax::testing
