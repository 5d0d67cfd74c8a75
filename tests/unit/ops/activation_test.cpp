// The activations of a plain MLP against autograd.
#include "ops/activation.h"

#include <cmath>
#include <limits>
#include <stdexcept>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

struct Case {
  Activation kind;
  int64_t rows, cols;
  at::ScalarType type;
};

class ActivationTest : public testing::TestWithParam<Case> {};

TEST_P(ActivationTest, MatchesAutograd) {
  const auto [kind, rows, cols, type] = GetParam();
  const at::Tensor x = random({rows, cols}, 1, type) * 3, dy = random({rows, cols}, 2, type);
  const at::Tensor ref = leaf(x);
  const at::Tensor y_ref = kind == Activation::kRelu ? at::relu(ref) : at::gelu(ref);
  y_ref.backward(dy.to(at::kDouble));

  at::Tensor y = empty({rows, cols}, x.options());
  activation_forward(kind, x, y);
  VAX_EXPECT_CLOSE(y, y_ref, tolerance(type));
  at::Tensor dx = at::full_like(x, 7);
  activation_backward(kind, dy, x, dx);
  VAX_EXPECT_CLOSE(dx, ref.grad(), tolerance(type));
  at::Tensor over_x = x.clone(), over_dy = dy.clone();
  activation_backward(kind, dy, over_x, over_x);
  EXPECT_TRUE(same_bits(over_x, dx));
  activation_backward(kind, over_dy, x, over_dy);
  EXPECT_TRUE(same_bits(over_dy, dx));
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Activation kind : {Activation::kRelu, Activation::kGelu}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      all.push_back({kind, 1, 1, type});
      all.push_back({kind, 3, 37, type});
      all.push_back({kind, 0, 8, type});
      all.push_back({kind, 90, 300, type});
    }
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Shapes, ActivationTest, testing::ValuesIn(cases()));

TEST(ActivationTest, StridedRowsGiveTheSameBits) {
  for (const Activation kind : {Activation::kRelu, Activation::kGelu}) {
    const at::Tensor x = random({5, 64}, 1), dy = random({5, 64}, 2);
    at::Tensor y = empty({5, 64}), strided_y = strided_copy(zeros({5, 64}));
    activation_forward(kind, x, y);
    activation_forward(kind, strided_copy(x), strided_y);
    EXPECT_TRUE(same_bits(y, strided_y));
    at::Tensor dx = empty({5, 64}), strided_dx = strided_copy(zeros({5, 64}));
    activation_backward(kind, dy, x, dx);
    activation_backward(kind, strided_copy(dy), strided_copy(x), strided_dx);
    EXPECT_TRUE(same_bits(dx, strided_dx));
  }
}

// Element by element, tails included, relative to each result and not to the largest one: rounding
// x / sqrt(2) or x^2 / 2 changes a tail by up to x^2 times 6e-8 of itself, 5e-6 at -9.
TEST(ActivationTest, GeluIsAsExactInItsTail) {
  const at::Tensor x = at::linspace(-9, 9, 3001).view({1, 3001}).to(device::current());
  at::Tensor y = at::empty_like(x);
  activation_forward(Activation::kGelu, x, y);
  const at::Tensor wide = x.cpu().to(at::kDouble);
  const at::Tensor exact = wide * 0.5 * at::erfc(wide * -std::sqrt(0.5));
  const at::Tensor error = (y.cpu().to(at::kDouble) - exact).abs() / exact.abs().clamp_min(1e-30);
  EXPECT_LT(error.max().item<double>(), 1e-5);
  EXPECT_LT(error.narrow(1, 1000, 2001).max().item<double>(), 2e-6) << "from -3 on";
}

TEST(ActivationTest, SaturatesAtBothEnds) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const at::Tensor x = tensor_of<float>({-1e30f, -100.0f, 0.0f, 100.0f, 1e30f, kInfinity});
  const at::Tensor expected = tensor_of<float>({0.0f, 0.0f, 0.0f, 100.0f, 1e30f, kInfinity});
  const at::Tensor slope = tensor_of<float>({0.0f, 0.0f, 0.0f, 1.0f, 1.0f});
  for (const Activation kind : {Activation::kRelu, Activation::kGelu}) {
    at::Tensor y = empty({1, 6}), dx = empty({1, 5});
    activation_forward(kind, x.view({1, 6}), y);
    EXPECT_TRUE(at::equal(y.flatten(), expected)) << y;
    const at::Tensor finite = x.narrow(0, 0, 5).view({1, 5});
    activation_backward(kind, ones({1, 5}), finite, dx);
    const at::Tensor at_zero = kind == Activation::kRelu ? zeros({1}) : full({1}, 0.5);
    EXPECT_TRUE(at::allclose(dx[0][2], at_zero[0], 1e-6, 0)) << dx;
    dx[0][2].zero_();
    EXPECT_TRUE(at::equal(dx.flatten(), slope)) << dx;
  }
}

TEST(ActivationTest, WhatIsNoNumberStaysSo) {
  const at::Tensor x = full({1, 3}, std::numeric_limits<double>::quiet_NaN());
  for (const Activation kind : {Activation::kRelu, Activation::kGelu}) {
    at::Tensor y = ones({1, 3});
    activation_forward(kind, x, y);
    EXPECT_TRUE(at::isnan(y).all().item<bool>());
  }
}

TEST(ActivationTest, RefusesShapesAndTypesThatDoNotFit) {
  at::Tensor y = empty({2, 3}), half = empty({2, 3}, at::kBFloat16);
  EXPECT_THROW(activation_forward(Activation::kRelu, ones({2, 4}), y), std::logic_error);
  EXPECT_THROW(activation_forward(Activation::kRelu, ones({2, 3}), half), std::logic_error);
  EXPECT_THROW(activation_backward(Activation::kGelu, half, ones({2, 3}), y), std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
