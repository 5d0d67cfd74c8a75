// The cosine between two directions, for vectors whose cosine is known.
#include "vaccine/probe_check.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "dist/comm/collectives.h"

namespace vax::vaccine {
namespace {

constexpr int kLayers = 2;
constexpr int64_t kHidden = 6;

using Gradients = std::vector<std::vector<at::Tensor>>;  // [micro-batch][layer] T x D

// Of two micro-batches; layers of different size.
struct CosineSums {
  double ab, aa, bb;
};

Gradients random_gradients() {
  Gradients gradients;
  for (const int64_t num_tokens : {4, 3}) {
    gradients.emplace_back();
    for (const double scale : {1e-3, 1e-4})
      gradients.back().push_back(scale * at::randn({num_tokens, kHidden}, at::kFloat));
  }
  return gradients;
}

class ProbeCheckTest : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(2); }

  Perturbation found(const VaccineOptions& options, const Gradients& gradients,
                     at::ScalarType kept_dtype = at::kFloat) {
    Perturbation perturbation(options, kLayers, {.width = kHidden, .dtype = kept_dtype});
    perturbation.begin(gradients.size());
    for (size_t m = 0; m < gradients.size(); ++m)
      for (int layer = kLayers - 1; layer >= 0; --layer)
        perturbation.record(m, layer, gradients[m][static_cast<size_t>(layer)]);
    perturbation.normalise(*world_);
    return perturbation;
  }
  CosineSums sums(const Perturbation& perturbation, const Gradients& exact) {
    ProbeCheck check(perturbation, kLayers, {.width = kHidden});
    for (size_t m = 0; m < exact.size(); ++m)
      for (int layer = kLayers - 1; layer >= 0; --layer)
        check.record(m, layer, exact[m][static_cast<size_t>(layer)]);
    at::Tensor sums = at::zeros({3}, at::kDouble);
    check.finish(*world_, sums);
    const auto* s = sums.const_data_ptr<double>();
    return {.ab = s[0], .aa = s[1], .bb = s[2]};
  }
  double cosine(const Perturbation& perturbation, const Gradients& exact) {
    const CosineSums s = sums(perturbation, exact);
    return s.ab / std::sqrt(s.aa * s.bb);
  }

  std::unique_ptr<dist::Collectives> world_ = dist::make_self_collectives();
};

TEST_F(ProbeCheckTest, OfTheSameGradientsIsOne) {
  const Gradients gradients = random_gradients();
  for (const Direction direction : {Direction::kToken, Direction::kShared})
    for (const NormScope scope : {NormScope::kGlobal, NormScope::kRank})
      // Sums of fp32 in the same order: one rounding of fp64 in the division.
      EXPECT_NEAR(
          cosine(found({.norm_scope = scope, .direction = direction}, gradients), gradients), 1,
          1e-15)
          << word_of(direction) << " " << word_of(scope);
}

TEST_F(ProbeCheckTest, DoesNotDependOnLengthButOnSign) {
  const Gradients gradients = random_gradients();
  for (const Direction direction : {Direction::kToken, Direction::kShared}) {
    const Perturbation perturbation = found({.rho = 7, .direction = direction}, gradients);
    for (const double factor : {64.0, -0.25}) {  // powers of two: no rounding
      Gradients scaled = gradients;
      for (auto& layers : scaled)
        for (at::Tensor& grad : layers) grad = factor * grad;
      EXPECT_NEAR(cosine(perturbation, scaled), factor > 0 ? 1 : -1, 1e-15) << word_of(direction);
    }
  }
}

// Numbers that fp32 and the sums hold exactly: <a, b> = 3 * 4 + 4 * 3, |a| = |b| = 5 in each layer
// of the first micro-batch; the second has a right angle.
TEST_F(ProbeCheckTest, IsOverAllLayersTokensAndMicroBatches) {
  const auto vector = [](float first, float second) {
    return at::tensor({first, second, 0.0f, 0.0f, 0.0f, 0.0f}).unsqueeze(0);
  };
  const Gradients probe = {{vector(3, 4), vector(3, 4)}, {vector(5, 0), vector(0, 5)}};
  const Gradients exact = {{vector(4, 3), vector(4, 3)}, {vector(0, 5), vector(5, 0)}};
  const CosineSums token = sums(found({}, probe), exact);
  EXPECT_EQ(token.ab, 48);
  EXPECT_EQ(token.aa, 100);
  EXPECT_EQ(token.bb, 100);
  // Shared: per layer the sum over tokens first: (8, 4) and (3, 9) against (4, 8) and (9, 3).
  const CosineSums shared = sums(found({.direction = Direction::kShared}, probe), exact);
  EXPECT_EQ(shared.ab, 64 + 54);
  EXPECT_EQ(shared.aa, 80 + 90);
  EXPECT_EQ(shared.bb, 80 + 90);
}

TEST_F(ProbeCheckTest, LeavesOutLayersThatAreNotPerturbed) {
  const Gradients gradients = random_gradients();
  Gradients other = gradients;
  for (auto& layers : other) layers[0] = -layers[0];
  for (const Direction direction : {Direction::kToken, Direction::kShared}) {
    EXPECT_NEAR(cosine(found({.direction = direction, .layers = {1}}, gradients), other), 1, 1e-15);
    EXPECT_LT(cosine(found({.direction = direction}, gradients), other), 0);  // layer 0 is larger
  }
}

TEST_F(ProbeCheckTest, SeesTheRoundingOfBf16) {
  const Gradients gradients = random_gradients();
  const double rounded = cosine(found({}, gradients, at::kBFloat16), gradients);
  // A rounding moves each element by at most 2^-9 of itself: the angle's sine stays below that.
  EXPECT_LT(rounded, 1 - 1e-9);
  EXPECT_GT(rounded, 1 - 0x1p-18);
}

TEST_F(ProbeCheckTest, WithoutRowsSumsToNothing) {
  for (const Direction direction : {Direction::kToken, Direction::kShared}) {
    const CosineSums none = sums(found({.direction = direction}, {}), {});
    EXPECT_EQ(none.ab + none.aa + none.bb, 0) << word_of(direction);
  }
}

}  // namespace
}  // namespace vax::vaccine
