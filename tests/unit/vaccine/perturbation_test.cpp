// The perturbation by itself: its norm, its scopes, its two directions. Reference: METHOD's
// equation eps_l = rho G_l / (sqrt(S) + 1e-7), evaluated here in fp64.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "dist/comm/collectives.h"
#include "vaccine/perturbation.h"

namespace vax::vaccine {
namespace {

constexpr int kLayers = 3;
constexpr int64_t kHidden = 7;

at::Tensor random_gradient(int64_t num_tokens, double scale) {
  return scale * at::randn({num_tokens, kHidden}, at::kFloat);
}

class PerturbationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::manual_seed(1);
    for (const int64_t num_tokens : {5, 1}) {
      grads_.emplace_back();
      // Layers of very different size: what is normalised is the norm over all of them.
      for (int layer = 0; layer < kLayers; ++layer)
        grads_.back().push_back(random_gradient(num_tokens, std::pow(10.0, layer - 5)));
    }
  }

  Perturbation recorded(const VaccineOptions& options, at::ScalarType kept_dtype = at::kFloat) {
    Perturbation perturbation(options, kLayers, {.width = kHidden, .dtype = kept_dtype});
    perturbation.begin(grads_.size());
    for (size_t m = 0; m < grads_.size(); ++m)
      for (int layer = kLayers - 1; layer >= 0; --layer)
        perturbation.record(m, layer, grads_[m][static_cast<size_t>(layer)]);
    perturbation.normalise(*world_);
    return perturbation;
  }

  at::Tensor epsilon(const Perturbation& perturbation, size_t m, int layer) {
    at::Tensor h_TD = at::zeros_like(grads_[m][static_cast<size_t>(layer)]);
    perturbation.add_to(m, layer, h_TD);
    return h_TD.to(at::kDouble);
  }

  std::unique_ptr<dist::Collectives> world_ = dist::make_self_collectives();
  std::vector<std::vector<at::Tensor>> grads_;  // [micro-batch][layer]
};

TEST_F(PerturbationTest, HasNormRhoOverAllLayersAndMicroBatches) {
  const Perturbation perturbation = recorded({.rho = 3});
  double eps_squares = 0, grad_squares = 0;
  for (size_t m = 0; m < grads_.size(); ++m)
    for (int layer = 0; layer < kLayers; ++layer) {
      eps_squares += epsilon(perturbation, m, layer).square().sum().item<double>();
      grad_squares +=
          grads_[m][static_cast<size_t>(layer)].to(at::kDouble).square().sum().item<double>();
    }
  // The 1e-7 beside sqrt(S), here about 6e-3, makes it a little shorter than rho.
  const double norm = std::sqrt(grad_squares);
  EXPECT_NEAR(std::sqrt(eps_squares), 3 * norm / (norm + 1e-7), 3e-6);  // roundings of fp32
  EXPECT_NEAR(std::sqrt(eps_squares), 3, 3e-4);
}

// S is summed from what is kept, after its rounding, so that the length is right all the same.
TEST_F(PerturbationTest, KeptInBf16HasNormRhoToo) {
  const Perturbation perturbation = recorded({.rho = 3}, at::kBFloat16);
  double eps_squares = 0, kept_squares = 0;
  for (size_t m = 0; m < grads_.size(); ++m)
    for (int layer = 0; layer < kLayers; ++layer) {
      const at::Tensor& grad_TD = grads_[m][static_cast<size_t>(layer)];
      const at::Tensor kept_TD = grad_TD.to(at::kBFloat16).to(at::kDouble);
      EXPECT_TRUE(at::equal(perturbation.kept(m, layer).to(at::kDouble), kept_TD));
      EXPECT_FALSE(at::equal(grad_TD.to(at::kDouble), kept_TD));
      eps_squares += epsilon(perturbation, m, layer).square().sum().item<double>();
      kept_squares += kept_TD.square().sum().item<double>();
    }
  const double norm = std::sqrt(kept_squares);
  // Roundings of fp32; those of bf16, 2e-3 of an element, would show.
  EXPECT_NEAR(std::sqrt(eps_squares), 3 * norm / (norm + 1e-7), 3e-6);
  EXPECT_NEAR(perturbation.scale().item<double>(), 3 / (norm + 1e-7), 1e-6 * 3 / norm);
}

TEST_F(PerturbationTest, SaysWhatItKeeps) {
  Perturbation empty({}, kLayers, {.width = kHidden});
  EXPECT_EQ(empty.num_bytes(), 0);
  constexpr int64_t kTokens = 5 + 1;
  EXPECT_EQ(recorded({}).num_bytes(), kLayers * kTokens * kHidden * 4);
  EXPECT_EQ(recorded({}, at::kBFloat16).num_bytes(), kLayers * kTokens * kHidden * 2);
  EXPECT_EQ(recorded({.layers = {0, 2}}).num_bytes(), 2 * kTokens * kHidden * 4);
  // Said beforehand, of one token or in all.
  EXPECT_EQ(recorded({}).bytes_per_token(), kLayers * kHidden * 4);
  EXPECT_EQ(recorded({.layers = {0, 2}}, at::kBFloat16).bytes_per_token(), 2 * kHidden * 2);
  EXPECT_EQ(recorded({}).shared_bytes(), 0);
  EXPECT_EQ(recorded({.direction = Direction::kShared}).bytes_per_token(), 0);
  EXPECT_EQ(recorded({.direction = Direction::kShared}).shared_bytes(), kLayers * kHidden * 4);
  // One fp32 vector a layer, whatever the type of what is kept by token.
  EXPECT_EQ(recorded({.direction = Direction::kShared}, at::kBFloat16).num_bytes(),
            kLayers * kHidden * 4);
  Perturbation again = recorded({});
  again.begin(1);
  EXPECT_EQ(again.num_bytes(), 0);
}

TEST_F(PerturbationTest, PointsAlongTheGradient) {
  const Perturbation perturbation = recorded({.rho = 3});
  double sum = 0;
  for (const auto& layers : grads_)
    for (const at::Tensor& grad : layers) sum += grad.to(at::kDouble).square().sum().item<double>();
  const double scale = 3 / (std::sqrt(sum) + 1e-7);
  for (size_t m = 0; m < grads_.size(); ++m)
    for (int layer = 0; layer < kLayers; ++layer) {
      const at::Tensor expected = scale * grads_[m][static_cast<size_t>(layer)].to(at::kDouble);
      // A few roundings of fp32.
      EXPECT_TRUE(at::allclose(epsilon(perturbation, m, layer), expected, 1e-6, 0));
    }
  EXPECT_NEAR(perturbation.scale().item<double>(), scale, 1e-6 * scale);
}

TEST_F(PerturbationTest, RecordsACopy) {
  Perturbation perturbation({.rho = 1}, kLayers, {.width = kHidden});
  perturbation.begin(1);
  at::Tensor grad = at::ones({2, kHidden});
  for (int layer = 0; layer < kLayers; ++layer) perturbation.record(0, layer, grad);
  grad.zero_();
  perturbation.normalise(*world_);
  at::Tensor h_TD = at::zeros({2, kHidden});
  perturbation.add_to(0, 1, h_TD);
  EXPECT_GT(h_TD.abs().max().item<float>(), 0);
}

TEST_F(PerturbationTest, RhoZeroChangesNothing) {
  const Perturbation perturbation = recorded({.rho = 0});
  at::Tensor h_TD = at::randn({5, kHidden});
  const at::Tensor before = h_TD.clone();
  perturbation.add_to(0, 2, h_TD);
  EXPECT_TRUE(at::equal(h_TD, before));
}

TEST_F(PerturbationTest, SharedDirectionIsTheTokenSumForEveryToken) {
  const Perturbation perturbation = recorded({.rho = 2, .direction = Direction::kShared});
  double sum = 0;
  std::vector<at::Tensor> vectors;
  for (size_t layer = 0; layer < kLayers; ++layer) {
    at::Tensor vector_D = at::zeros({kHidden}, at::kDouble);
    for (const auto& layers : grads_) vector_D += layers[layer].to(at::kDouble).sum(0);
    sum += vector_D.square().sum().item<double>();
    vectors.push_back(vector_D);
  }
  for (size_t m = 0; m < grads_.size(); ++m)
    for (int layer = 0; layer < kLayers; ++layer) {
      const at::Tensor expected =
          (2 / (std::sqrt(sum) + 1e-7) * vectors[static_cast<size_t>(layer)])
              .expand_as(grads_[m][static_cast<size_t>(layer)]);
      // Sums of six numbers in fp32; entries where they cancel are small beside the largest.
      EXPECT_TRUE(at::allclose(epsilon(perturbation, m, layer), expected, 1e-5,
                               1e-6 * expected.abs().max().item<double>()));
    }
}

TEST_F(PerturbationTest, OnlyChosenLayersCountAndAreChanged) {
  const Perturbation perturbation = recorded({.rho = 2, .layers = {1}});
  EXPECT_EQ(epsilon(perturbation, 0, 0).abs().max().item<double>(), 0);
  EXPECT_EQ(epsilon(perturbation, 0, 2).abs().max().item<double>(), 0);
  double sum = 0;
  for (size_t m = 0; m < grads_.size(); ++m)
    sum += epsilon(perturbation, m, 1).square().sum().item<double>();
  EXPECT_NEAR(std::sqrt(sum), 2, 2 * 1e-3);  // 1e-7 beside a norm of 6e-4
  EXPECT_EQ(perturbation.layer_squares()[2].item<double>(), 0);
}

TEST_F(PerturbationTest, ZeroGradientsGiveNoPerturbation) {
  Perturbation perturbation({.rho = 2}, kLayers, {.width = kHidden});
  perturbation.begin(1);
  for (int layer = 0; layer < kLayers; ++layer)
    perturbation.record(0, layer, at::zeros({2, kHidden}));
  perturbation.normalise(*world_);
  at::Tensor h_TD = at::ones({2, kHidden});
  perturbation.add_to(0, 0, h_TD);
  EXPECT_TRUE(at::equal(h_TD, at::ones({2, kHidden})));
}

TEST_F(PerturbationTest, RefusesLayersTheModelDoesNotHave) {
  EXPECT_THROW(Perturbation({.layers = {kLayers}}, kLayers, {}), ConfigError);
  EXPECT_THROW(Perturbation({.layers = {-1}}, kLayers, {}), ConfigError);
}

}  // namespace
}  // namespace vax::vaccine
