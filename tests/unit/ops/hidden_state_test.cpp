// The fused loops on the residual stream against LibTorch: odd shapes, types, strided rows, the
// promises about bits.
#include "ops/hidden_state.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

struct Case {
  int64_t rows, cols;
  at::ScalarType type;  // of e and kept
};

class HiddenStateTest : public testing::TestWithParam<Case> {};

TEST_P(HiddenStateTest, ResidualAddMatchesLibTorch) {
  const auto [rows, cols, type] = GetParam();
  const at::Tensor x = random({rows, cols}, 1), e = random({rows, cols}, 2, type);
  const at::Tensor expected = x + e;
  at::Tensor h = unset({rows, cols}), in_place = strided_copy(x);
  residual_add(x, strided_copy(e), h);
  EXPECT_TRUE(same_bits(h, expected)) << "one addition has one right result";
  residual_add(in_place, e, in_place);
  EXPECT_TRUE(same_bits(in_place, expected));
}

TEST_P(HiddenStateTest, KeepsTheGradientAndItsSquares) {
  const auto [rows, cols, type] = GetParam();
  const at::Tensor grad = random({rows, cols}, 1);
  at::Tensor kept = unset({rows, cols}, type);
  const double squares = copy_with_squares(strided_copy(grad), kept);
  EXPECT_TRUE(same_bits(kept, grad.to(type)));
  const double expected = kept.to(at::kDouble).square().sum().item<double>();
  EXPECT_NEAR(squares, expected, kFloatTolerance * expected);
}

TEST_P(HiddenStateTest, AddScaledMatchesLibTorch) {
  const auto [rows, cols, type] = GetParam();
  const at::Tensor kept = random({rows, cols}, 1, type), vector = random({cols}, 2, type);
  const at::Tensor before = random({rows, cols}, 3);
  const at::Tensor wide = before.to(at::kDouble);
  at::Tensor h = strided_copy(before);
  add_scaled(strided_copy(kept), 0.37, h);
  VAX_EXPECT_CLOSE(h, wide + 0.37 * kept.to(at::kDouble), kFloatTolerance);
  h = before.clone();
  add_scaled(vector, -3.5, h);
  VAX_EXPECT_CLOSE(h, wide - 3.5 * vector.to(at::kDouble), kFloatTolerance);
}

TEST_P(HiddenStateTest, CosineSumsMatchLibTorch) {
  const auto [rows, cols, type] = GetParam();
  const at::Tensor a = random({rows, cols}, 1), b = random({rows, cols}, 2, type);
  const at::Tensor wide_a = a.to(at::kDouble), wide_b = b.to(at::kDouble);
  const double aa = wide_a.square().sum().item<double>();
  const double bb = wide_b.square().sum().item<double>();
  const CosineSums sums = cosine_sums(strided_copy(a), b);
  EXPECT_NEAR(sums.aa, aa, kFloatTolerance * aa);
  EXPECT_NEAR(sums.bb, bb, kFloatTolerance * bb);
  EXPECT_NEAR(sums.ab, (wide_a * wide_b).sum().item<double>(),
              kFloatTolerance * std::sqrt(aa * bb));
  const CosineSums swapped = cosine_sums(b, a);
  EXPECT_EQ(swapped.ab, sums.ab);
  EXPECT_EQ(swapped.aa, sums.bb);
}

INSTANTIATE_TEST_SUITE_P(Shapes, HiddenStateTest,
                         testing::Values(Case{1, 1, at::kFloat}, Case{3, 37, at::kFloat},
                                         Case{70, 768, at::kFloat}, Case{0, 16, at::kFloat},
                                         Case{3, 37, at::kBFloat16}, Case{70, 131, at::kBFloat16},
                                         Case{0, 16, at::kBFloat16}));

TEST(HiddenStateTest, AScaleOfZeroChangesNoBit) {
  const at::Tensor before = at::tensor({-0.0f, 0.0f, 1.5f, 1e-42f}).view({1, 4});
  at::Tensor h = before.clone();
  add_scaled(at::full({1, 4}, std::numeric_limits<float>::infinity()), 0, h);
  add_scaled(at::ones({4}), -0.0, h);
  EXPECT_TRUE(same_bits(h, before));
}

TEST(HiddenStateTest, SquaresDoNotDependOnThreadsOrPacking) {
  const at::Tensor grad = random({301, 97}, 1);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    at::Tensor kept = at::empty(grad.sizes(), type), part = at::empty({200, 97}, type);
    double whole = 0;
    expect_same_on_any_threads([&] {
      whole = copy_with_squares(grad, kept);
      return at::scalar_tensor(whole, at::kDouble);
    });
    at::Tensor rest = at::empty({101, 97}, type);
    const double parts = copy_with_squares(grad.narrow(0, 0, 200), part) +
                         copy_with_squares(grad.narrow(0, 200, 101), rest);
    // The same row sums, joined in fp64 in another order: 301 roundings of 1.1e-16 at most.
    EXPECT_NEAR(parts, whole, 301 * 1.2e-16 * whole);
  }
}

TEST(HiddenStateTest, TheCosineOfAVectorWithItselfIsOne) {
  const at::Tensor a = random({1000}, 1);
  const CosineSums sums = cosine_sums(a, a);
  EXPECT_EQ(sums.ab, sums.aa);
  EXPECT_EQ(sums.ab, sums.bb);
  expect_same_on_any_threads([&] {
    const CosineSums s = cosine_sums(a.view({100, 10}), 2 * a.view({100, 10}));
    return at::tensor({s.ab, s.aa, s.bb}, at::kDouble);
  });
}

TEST(HiddenStateTest, RefusesWhatDoesNotFit) {
  at::Tensor h = at::zeros({3, 4}), bf16 = at::zeros({3, 4}, at::kBFloat16);
  const at::Tensor wide = at::zeros({3, 5}), vector = at::zeros({3});
  EXPECT_THROW(residual_add(h, wide, h), std::logic_error);
  EXPECT_THROW(residual_add(h, h, bf16), std::logic_error);
  EXPECT_THROW(copy_with_squares(bf16, h), std::logic_error);
  EXPECT_THROW(copy_with_squares(wide, h), std::logic_error);
  EXPECT_THROW(add_scaled(vector, 1, h), std::logic_error) << "3 is not the width";
  EXPECT_THROW(add_scaled({}, 0, h), std::logic_error);
  EXPECT_THROW(cosine_sums(h, wide), std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
