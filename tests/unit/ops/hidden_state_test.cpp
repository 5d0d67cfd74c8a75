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

// The operators with sums as results.
struct CosineSums {
  double ab, aa, bb;
};
CosineSums cosine_sums(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor sums = zeros({3}, at::kDouble);
  ops::cosine_sums(a, b, sums);
  return {sums[0].item<double>(), sums[1].item<double>(), sums[2].item<double>()};
}
double copy_with_squares(const at::Tensor& grad, at::Tensor& kept) {
  at::Tensor squares = number(0);
  ops::copy_with_squares(grad, kept, squares);
  return squares.item<double>();
}
void add_scaled(const at::Tensor& kept, double scale, at::Tensor& h) {
  ops::add_scaled(kept, number(scale), h);
}

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
  at::Tensor strided = strided_copy(unset({rows, cols}, type));
  EXPECT_EQ(copy_with_squares(grad, strided), squares) << "wherever rows begin";
  EXPECT_TRUE(same_bits(strided, kept));
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
                                         Case{0, 16, at::kBFloat16},
                                         // longer than what a block of a GPU keeps
                                         Case{2, 17001, at::kFloat},
                                         Case{2, 16400, at::kBFloat16}));

TEST(HiddenStateTest, AScaleOfZeroChangesNoBit) {
  const at::Tensor before = tensor_of<float>({-0.0f, 0.0f, 1.5f, 1e-42f}).view({1, 4});
  at::Tensor h = before.clone();
  add_scaled(full({1, 4}, std::numeric_limits<float>::infinity()), 0, h);
  add_scaled(ones({4}), -0.0, h);
  EXPECT_TRUE(same_bits(h, before));
}

TEST(HiddenStateTest, SquaresDoNotDependOnThreadsOrPacking) {
  const at::Tensor grad = random({301, 97}, 1);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    at::Tensor kept = empty(grad.sizes(), type), part = empty({200, 97}, type);
    double whole = 0;
    expect_same_on_any_threads([&] {
      whole = copy_with_squares(grad, kept);
      return at::scalar_tensor(whole, at::kDouble);
    });
    at::Tensor rest = empty({101, 97}, type);
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

TEST(HiddenStateTest, SquaresOfAnyTensor) {
  // Below, at and beyond what one block and all of them take at a time; beginnings that are no
  // multiple of 16 bytes.
  for (const int64_t count : {0, 1, 3, 1000, 4096, 4099, 100003, 4400001}) {
    for (const int64_t skipped : {0, 1}) {
      const at::Tensor x = random({count + skipped}, 5).narrow(0, skipped, count);
      const double expected = x.to(at::kDouble).square().sum().item<double>();
      at::Tensor squares = number(2);
      add_squares(x, squares);
      EXPECT_NEAR(squares.item<double>(), 2 + expected, kFloatTolerance * expected) << count;
    }
  }
  expect_same_on_any_threads([] {
    at::Tensor squares = number(0);
    add_squares(random({100003}, 5), squares);
    return squares;
  });
}

TEST(HiddenStateTest, SumsAreAddedToWhatIsThere) {
  const at::Tensor a = random({5, 8}, 1);
  at::Tensor kept = empty({5, 8}), squares = number(3), sums = ones({3}, at::kDouble);
  ops::copy_with_squares(a, kept, squares);
  EXPECT_NEAR(squares.item<double>(), 3 + copy_with_squares(a, kept), 1e-13);
  ops::cosine_sums(a, 2 * a, sums);
  const CosineSums expected = cosine_sums(a, 2 * a);
  EXPECT_NEAR(sums[0].item<double>(), 1 + expected.ab, 1e-13);
  EXPECT_NEAR(sums[2].item<double>(), 1 + expected.bb, 1e-13);
}

TEST(HiddenStateTest, RefusesWhatDoesNotFit) {
  at::Tensor h = zeros({3, 4}), bf16 = zeros({3, 4}, at::kBFloat16);
  const at::Tensor wide = zeros({3, 5}), vector = zeros({3});
  EXPECT_THROW(residual_add(h, wide, h), std::logic_error);
  EXPECT_THROW(residual_add(h, h, bf16), std::logic_error);
  EXPECT_THROW(copy_with_squares(bf16, h), std::logic_error);
  EXPECT_THROW(copy_with_squares(wide, h), std::logic_error);
  EXPECT_THROW(add_scaled(vector, 1, h), std::logic_error) << "3 is not the width";
  EXPECT_THROW(add_scaled({}, 0, h), std::logic_error);
  EXPECT_THROW(cosine_sums(h, wide), std::logic_error);
  at::Tensor float_sum = zeros({1}), two_sums = zeros({2}, at::kDouble);
  EXPECT_THROW(add_squares(h, float_sum), std::logic_error);
  EXPECT_THROW(add_squares(h, two_sums), std::logic_error);
  EXPECT_THROW(ops::add_scaled(h, float_sum, h), std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
