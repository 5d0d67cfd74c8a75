// AdamW against torch::optim::AdamW, and its independence of how the weights are cut.
#include "ops/adamw.h"

#include <torch/optim/adamw.h>

#include <stdexcept>
#include <vector>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

struct State {
  at::Tensor weight, exp_avg, exp_avg_sq;
  explicit State(int64_t count)
      : weight(random({count}, 1)), exp_avg(zeros({count})), exp_avg_sq(zeros({count})) {}

  void update(const at::Tensor& grad, const AdamWOptions& options, int64_t begin, int64_t end) {
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, begin, end - begin); };
    adamw_update(part(weight), part(grad), part(exp_avg), part(exp_avg_sq), options);
  }
};

TEST(AdamWTest, TwentyStepsMatchTorch) {
  constexpr int64_t kCount = 37;
  State state(kCount);
  at::Tensor expected = state.weight.clone().requires_grad_(true);
  torch::optim::AdamW torch_adamw(
      std::vector<at::Tensor>{expected},
      torch::optim::AdamWOptions(1e-2).betas({0.8, 0.95}).eps(1e-6).weight_decay(0.1));
  for (int64_t step = 1; step <= 20; ++step) {
    const at::Tensor grad = random({kCount}, static_cast<uint64_t>(100 + step));
    expected.mutable_grad() = grad * 0.5;
    torch_adamw.step();
    state.update(grad,
                 {.lr = 1e-2,
                  .beta1 = 0.8,
                  .beta2 = 0.95,
                  .eps = 1e-6,
                  .weight_decay = 0.1,
                  .step = step,
                  .grad_scale = 0.5},
                 0, kCount);
    // Each step rounds a weight of size 1 a few times by 6e-8.
    VAX_EXPECT_CLOSE(state.weight, expected, 2e-6);
  }
}

TEST(AdamWTest, SlicesGiveTheBitsOfTheWhole) {
  constexpr int64_t kCount = 40001;
  State whole(kCount), sliced(kCount);
  for (int64_t step = 1; step <= 3; ++step) {
    const at::Tensor grad = random({kCount}, static_cast<uint64_t>(step));
    const AdamWOptions options{.lr = 1e-2, .weight_decay = 0.1, .step = step};
    whole.update(grad, options, 0, kCount);
    const std::vector<int64_t> cuts = {0, 1, 8, 21, 4096, 4103, kCount};
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      sliced.update(grad, options, cuts[i], cuts[i + 1]);
    }
  }
  EXPECT_TRUE(same_bits(whole.weight, sliced.weight));
  EXPECT_TRUE(same_bits(whole.exp_avg, sliced.exp_avg));
  EXPECT_TRUE(same_bits(whole.exp_avg_sq, sliced.exp_avg_sq));
}

TEST(AdamWTest, IsTheSameOnAnyThreads) {
  const at::Tensor grad = random({100003}, 2);
  expect_same_on_any_threads([&] {
    State state(100003);
    state.update(grad, {.lr = 1e-2}, 0, 100003);
    return state.weight;
  });
}

TEST(AdamWTest, TakesNothingAndRefusesWhatDoesNotFit) {
  State none(0), state(4);
  EXPECT_NO_THROW(none.update(zeros({0}), {.lr = 1}, 0, 0));
  const at::Tensor grad = ones({4});
  EXPECT_THROW(state.update(grad, {.lr = 1, .step = 0}, 0, 4), std::logic_error);
  EXPECT_THROW(
      adamw_update(state.weight, grad.narrow(0, 0, 3), state.exp_avg, state.exp_avg_sq, {.lr = 1}),
      std::logic_error);
  EXPECT_THROW(adamw_update(state.weight, grad.to(at::kBFloat16), state.exp_avg, state.exp_avg_sq,
                            {.lr = 1}),
               std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
