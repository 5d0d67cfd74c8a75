// Five updates against AdamW written out in fp64, member by member, and the gradient's norm.
#include "train/optimizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/decoder/layout.h"
#include "support/tiny_llama.h"

namespace vax::train {
namespace {

using testing::NamedTensors;

constexpr int kNumSteps = 5;

double lr_of(int step) { return 0.01 / step; }
double grad_scale_of(int step) { return step == 2 ? 0.25 : 1.0; }

NamedTensors gradients_of(const FlatLayout& layout, int step) {
  // Of very different sizes, as gradients are: AdamW's division is what is tested.
  NamedTensors gradients = testing::tiny_tensors(layout, 100 + static_cast<uint64_t>(step));
  for (auto& [name, tensor] : gradients) tensor *= std::pow(10.0, step - 6);
  return gradients;
}

struct Reference {
  at::Tensor weight, exp_avg, exp_avg_sq;  // fp64

  // torch.optim.AdamW's formulas.
  void update(const at::Tensor& gradient, int step, double decay, const TrainOptions& options) {
    const at::Tensor g = gradient.to(at::kDouble) * grad_scale_of(step);
    weight = weight * (1 - lr_of(step) * decay);
    exp_avg = options.beta1 * exp_avg + (1 - options.beta1) * g;
    exp_avg_sq = options.beta2 * exp_avg_sq + (1 - options.beta2) * g * g;
    const at::Tensor mean = exp_avg / (1 - std::pow(options.beta1, step));
    const at::Tensor mean_sq = exp_avg_sq / (1 - std::pow(options.beta2, step));
    weight = weight - lr_of(step) * mean / (mean_sq.sqrt() + options.eps);
  }
};

class OptimizerTest : public ::testing::Test {
 protected:
  // Calls function(member, view of the member in `flat_of(index)`).
  void for_each_view(const std::function<at::Tensor&(int)>& flat_of,
                     const std::function<void(const FlatMember&, at::Tensor)>& function) {
    for (int unit = 0; unit < plane_.layout().num_model_units(); ++unit)
      for (const FlatGroup& group : layout_[static_cast<size_t>(unit)].groups)
        for (const FlatMember& member : group.members)
          function(member, flat_of(plane_.layout().index_of(unit))
                               .narrow(0, member.offset, member.count)
                               .view(member.shape));
  }
  void set(const std::function<at::Tensor&(int)>& flat_of, const NamedTensors& values) {
    for_each_view(flat_of, [&](const FlatMember& member, at::Tensor view) {
      view.copy_(values.at(member.name));
    });
  }
  std::function<at::Tensor&(int)> weights() {
    return [this](int index) -> at::Tensor& { return plane_.units().shard(index); };
  }
  std::function<at::Tensor&(int)> gradients() {
    return [this](int index) -> at::Tensor& { return gradients_.shard(index); };
  }

  FlatLayout layout_ = model::base_layout(testing::tiny_config());
  std::unique_ptr<dist::Collectives> group_ = dist::make_self_collectives();
  Plane plane_{layout_, *group_, {}};
  dist::ShardedGradients gradients_{*group_, plane_.layout().counts(), at::kCPU};
};

TEST_F(OptimizerTest, FiveUpdatesAreAdamW) {
  const TrainOptions options{.weight_decay = 0.1, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6};
  ShardedAdamW optimizer(plane_, gradients_, options);
  std::map<std::string, Reference> references;
  const NamedTensors initial = testing::tiny_tensors(layout_, 1);
  set(weights(), initial);
  for (const auto& [name, tensor] : initial) {
    const at::Tensor zeros = at::zeros(tensor.sizes(), at::kDouble);
    references[name] = {tensor.to(at::kDouble), zeros, zeros};
  }
  for (int step = 1; step <= kNumSteps; ++step) {
    const NamedTensors step_gradients = gradients_of(layout_, step);
    set(gradients(), step_gradients);
    optimizer.update(lr_of(step), grad_scale_of(step));
    for (auto& [name, reference] : references) {
      // By the name, not by the layout's flag, which is under test too.
      const bool decays = name.find("norm") == std::string::npos && !name.ends_with(".bias");
      reference.update(step_gradients.at(name), step, decays ? options.weight_decay : 0, options);
    }
  }
  EXPECT_EQ(optimizer.num_updates(), kNumSteps);
  for_each_view(weights(), [&](const FlatMember& member, const at::Tensor& view) {
    // Three roundings of fp32 (6e-8 of the weight) a step. Decay, where it is wrong, moves a
    // weight by 2e-3 of itself.
    EXPECT_TRUE(at::allclose(view.to(at::kDouble), references.at(member.name).weight, 9e-7, 1e-7))
        << member.name;
  });
}

TEST_F(OptimizerTest, NormIsOverAllMembersAndNothingElse) {
  ShardedAdamW optimizer(plane_, gradients_, {});
  EXPECT_EQ(optimizer.gradient_norm(), 0);
  for (int index = 0; index < plane_.units().num_units(); ++index)
    gradients_.shard(index).fill_(1e3f);  // the gaps between groups belong to no parameter
  const NamedTensors values = testing::tiny_tensors(layout_, 2);
  set(gradients(), values);
  double sum = 0;
  for (const auto& [name, tensor] : values)
    sum += tensor.to(at::kDouble).square().sum().item<double>();
  // The norm of each member is taken in fp32: a relative error of a few 6e-8.
  EXPECT_NEAR(optimizer.gradient_norm(), std::sqrt(sum), 1e-6 * std::sqrt(sum));
}

TEST_F(OptimizerTest, StateIsTwoShardsOfFloats) {
  const ShardedAdamW optimizer(plane_, gradients_, {});
  int64_t count = 0;
  for (const FlatUnit& unit : layout_) count += unit.count;
  EXPECT_EQ(optimizer.num_bytes(), 2 * 4 * count);
}

}  // namespace
}  // namespace vax::train
