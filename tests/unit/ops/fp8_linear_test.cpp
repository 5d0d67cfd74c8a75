// Linear layers in 8-bit floats, on a device or its stand-in. The oracle is double arithmetic on
// what was there before it was quantised, with a bound for every element, and again on LibTorch's
// own e4m3 of the same numbers, where only the result's rounding is left.
#include "ops/fp8_linear.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

struct Case {
  int64_t tokens, inputs, outputs;
  bool bias;
};

at::Tensor wide(const at::Tensor& x) { return x.to(at::kDouble); }

at::Tensor largest_of_rows(const at::Tensor& x) { return x.abs().amax(1, /*keepdim=*/true); }

// How far e4m3 with one scale per row may be from x: half a step of 4 significant bits is at most
// 1 / 17 of the number; subnormals have half steps of 2^-10 scales. Two roundings to fp32 (x /
// scale, and the scale) are covered by 1e-6.
at::Tensor quantising_error(const at::Tensor& x) {
  const at::Tensor step = largest_of_rows(x) * (std::ldexp(1.0, -10) / 448);
  return at::maximum(x.abs() / 17, step.expand_as(x)) * (1 + 1e-6) + x.abs() * 1e-6;
}

// |quantised(a) quantised(b)^T - a b^T| is at most this, and the result is bf16 (2^-8 with room
// for sums in fp32).
at::Tensor product_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor da = quantising_error(a), db = quantising_error(b);
  return (at::mm(a.abs(), db.t()) + at::mm(da, b.abs().t()) + at::mm(da, db.t())) *
             (1 + std::ldexp(1.0, -8)) +
         at::mm(a, b.t()).abs() * std::ldexp(1.0, -8);
}

struct Quantised {
  at::Tensor e4m3, scale;
};
// LibTorch's e4m3 of fp32 rows with the scales that the header names.
Quantised reference(const at::Tensor& x) {
  const at::Tensor largest = largest_of_rows(x);
  const at::Tensor scale = at::where(largest == 0, at::ones_like(largest), largest / 448);
  return {(x * (1 / scale)).to(at::kFloat8_e4m3fn), scale};
}
at::Tensor value(const Quantised& q) { return wide(q.e4m3.to(at::kFloat)) * wide(q.scale); }

struct Problem {
  at::Tensor x, w, bias, dy;

  explicit Problem(const Case& c)
      : x(random({c.tokens, c.inputs}, 1, at::kBFloat16)),
        w(random({c.outputs, c.inputs}, 2, at::kBFloat16)),
        bias(c.bias ? random({c.outputs}, 3, at::kBFloat16) : at::Tensor()),
        dy(random({c.tokens, c.outputs}, 4, at::kBFloat16)) {
    // Rows and columns of very different sizes, as outliers make them.
    w *= at::exp(3 * random({c.outputs, 1}, 5));
    x *= at::exp(3 * random({1, c.inputs}, 6));
  }

  at::Tensor forward() const {
    at::Tensor y = unset({x.size(0), w.size(0)}, at::kBFloat16);
    fp8_linear_forward(x, quantise_weight(w, Fp8Copies::kForward), bias, y);
    return y;
  }
  at::Tensor backward() const {
    at::Tensor dx = unset(x.sizes(), at::kBFloat16);
    fp8_linear_backward_input(dy, quantise_weight(w, Fp8Copies::kBackward), dx);
    return dx;
  }
  at::Tensor with_bias(const at::Tensor& y) const { return bias.defined() ? y + wide(bias) : y; }
};

class Fp8LinearTest : public testing::TestWithParam<Case> {};

TEST_P(Fp8LinearTest, ForwardStaysWithinTheErrorOfItsOperands) {
  const Problem problem(GetParam());
  const at::Tensor exact = problem.with_bias(at::mm(wide(problem.x), wide(problem.w).t()));
  const at::Tensor bound =
      product_error(wide(problem.x), wide(problem.w)) + exact.abs() * std::ldexp(1.0, -8);
  EXPECT_TRUE(((wide(problem.forward()) - exact).abs() <= bound).all().item<bool>());
}

TEST_P(Fp8LinearTest, ForwardIsTheProductOfLibTorchsE4m3) {
  const Problem problem(GetParam());
  const Quantised x = reference(problem.x.to(at::kFloat)), w = reference(problem.w.to(at::kFloat));
  VAX_EXPECT_CLOSE(problem.forward(), problem.with_bias(at::mm(value(x), value(w).t())),
                   kBf16Tolerance);
}

TEST_P(Fp8LinearTest, BackwardStaysWithinTheErrorOfItsOperands) {
  const Problem problem(GetParam());
  const Quantised w = reference(problem.w.to(at::kFloat));
  // dy is quantised after W's scales have been multiplied into it, and W without them.
  const at::Tensor dy = wide(problem.dy) * wide(w.scale).t();
  const at::Tensor bare = wide(problem.w) / wide(w.scale);
  const at::Tensor d_dy = quantising_error(dy), d_w = quantising_error(bare);
  const at::Tensor exact = at::mm(wide(problem.dy), wide(problem.w));
  const at::Tensor bound = (at::mm(dy.abs(), d_w) + at::mm(d_dy, bare.abs()) + at::mm(d_dy, d_w)) *
                               (1 + std::ldexp(1.0, -8)) +
                           exact.abs() * std::ldexp(1.0, -8);
  EXPECT_TRUE(((wide(problem.backward()) - exact).abs() <= bound).all().item<bool>());
}

TEST_P(Fp8LinearTest, BackwardIsTheProductOfLibTorchsE4m3) {
  const Problem problem(GetParam());
  const Quantised w = reference(problem.w.to(at::kFloat));
  const Quantised dy = reference(problem.dy.to(at::kFloat) * w.scale.t());
  VAX_EXPECT_CLOSE(problem.backward(), at::mm(value(dy), wide(w.e4m3.to(at::kFloat))),
                   kBf16Tolerance);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Fp8LinearTest,
                         testing::Values(Case{1, 16, 16, false}, Case{7, 48, 32, true},
                                         // more than a block's share of a row, partial tiles
                                         Case{33, 2064, 80, false}, Case{5, 128, 144, true}));

TEST(Fp8LinearTest, CopiesAreOneQuantisation) {
  const at::Tensor w = random({80, 144}, 1, at::kBFloat16);
  w[3].zero_();
  const Fp8Weight both = quantise_weight(w, Fp8Copies::kBoth);
  const Quantised expected = reference(w.to(at::kFloat));
  EXPECT_TRUE(same_bits(both.by_rows_OI, expected.e4m3));
  EXPECT_TRUE(same_bits(both.by_columns_IO, expected.e4m3.t()));
  EXPECT_TRUE(same_bits(both.scale_O, expected.scale.squeeze(1)));
  EXPECT_EQ(both.num_bytes(), 2 * 80 * 144 + 80 * 4);
  const Fp8Weight forward = quantise_weight(strided_copy(w), Fp8Copies::kForward);
  const Fp8Weight backward = quantise_weight(strided_copy(w), Fp8Copies::kBackward);
  EXPECT_TRUE(same_bits(forward.by_rows_OI, both.by_rows_OI));
  EXPECT_TRUE(same_bits(backward.by_columns_IO, both.by_columns_IO));
  EXPECT_TRUE(same_bits(backward.scale_O, both.scale_O));
  EXPECT_FALSE(forward.by_columns_IO.defined());
  EXPECT_FALSE(backward.by_rows_OI.defined());
  EXPECT_EQ(backward.num_bytes(), 80 * 144 + 80 * 4);
}

// A row whose largest element is 448 has the scale 1.
TEST(Fp8LinearTest, RoundsEveryBf16NumberAsLibTorchDoes) {
  constexpr int64_t kColumns = 1024;
  std::vector<float> numbers;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    if (numbers.size() % kColumns == 0) numbers.push_back(448);
    const uint32_t word = bits << 16;
    float number = 0;
    std::memcpy(&number, &word, sizeof(number));
    if (std::abs(number) <= 448) numbers.push_back(number);
  }
  while (numbers.size() % (16 * kColumns) != 0) numbers.push_back(448);
  const at::Tensor w = tensor_of(numbers).view({-1, kColumns});
  const Fp8Weight weight = quantise_weight(w.to(at::kBFloat16), Fp8Copies::kForward);
  EXPECT_TRUE((weight.scale_O == 1).all().item<bool>());
  EXPECT_TRUE(same_bits(weight.by_rows_OI, w.to(at::kFloat8_e4m3fn)));
}

TEST(Fp8LinearTest, ZerosGiveTheBiasAndTinyNumbersAreFinite) {
  Problem problem({3, 32, 16, true});
  problem.x[1].zero_();
  problem.x[2].fill_(1e-39);  // subnormal in bf16
  problem.w[5].zero_();
  const at::Tensor y = problem.forward();
  EXPECT_TRUE(same_bits(y[1], problem.bias));
  EXPECT_TRUE(at::isfinite(y).all().item<bool>());
  EXPECT_TRUE((y.select(1, 5) == problem.bias[5]).all().item<bool>());
  problem.dy[0].zero_();
  EXPECT_TRUE((problem.backward()[0] == 0).all().item<bool>());
}

TEST(Fp8LinearTest, WhatIsNotFiniteDoesNotVanish) {
  const Problem good({4, 32, 48, false});
  const at::Tensor y = good.forward(), dx = good.backward();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const double bad : {std::nan(""), kInfinity, -kInfinity}) {
    Problem problem({4, 32, 48, false});
    problem.x[2][7] = bad;
    problem.dy[1][9] = bad;
    at::Tensor y_bad = problem.forward(), dx_bad = problem.backward();
    EXPECT_TRUE(at::isnan(y_bad[2]).all().item<bool>()) << bad;
    EXPECT_TRUE(at::isnan(dx_bad[1]).all().item<bool>()) << bad;
    y_bad[2] = y[2];
    dx_bad[1] = dx[1];
    EXPECT_TRUE(same_bits(y_bad, y)) << "other tokens";
    EXPECT_TRUE(same_bits(dx_bad, dx)) << "other tokens";

    Problem weights({4, 32, 48, false});
    weights.w[11][3] = bad;
    at::Tensor y_weights = weights.forward();
    EXPECT_TRUE(at::isnan(y_weights.select(1, 11)).all().item<bool>()) << bad;
    y_weights.select(1, 11).copy_(y.select(1, 11));
    EXPECT_TRUE(same_bits(y_weights, y)) << "other outputs";
    EXPECT_FALSE(at::isfinite(weights.backward()).select(1, 3).any().item<bool>()) << bad;
  }
}

TEST(Fp8LinearTest, WritesColumnBlocksAndReadsThem) {
  const Problem problem({6, 32, 48, true});
  const at::Tensor expected = problem.forward();
  const at::Tensor x = strided_copy(problem.x);
  at::Tensor y = strided_copy(expected * 0);
  fp8_linear_forward(x, quantise_weight(problem.w, Fp8Copies::kForward), problem.bias, y);
  EXPECT_TRUE(same_bits(y, expected));
  const at::Tensor whole = y.as_strided({6, 53}, {53, 1}, 0);
  EXPECT_TRUE((whole.narrow(1, 0, 2) == 77).all().item<bool>());
  EXPECT_TRUE((whole.narrow(1, 50, 3) == 77).all().item<bool>());
}

TEST(Fp8LinearTest, NoTokensAreNothingToDo) {
  const Problem problem({0, 32, 48, true});
  EXPECT_EQ(problem.forward().size(0), 0);
  EXPECT_EQ(problem.backward().size(0), 0);
}

TEST(Fp8LinearTest, RefusesWhatItCannotCompute) {
  EXPECT_TRUE(fp8_supports(16, 4096));
  EXPECT_FALSE(fp8_supports(24, 16));
  EXPECT_FALSE(fp8_supports(16, 24));
  EXPECT_FALSE(fp8_supports(0, 16));
  EXPECT_THROW(quantise_weight(random({16, 24}, 1, at::kBFloat16), Fp8Copies::kBoth),
               std::logic_error);
  EXPECT_THROW(quantise_weight(random({16, 32}, 1), Fp8Copies::kBoth), std::logic_error) << "fp32";
  const Problem problem({3, 32, 48, false});
  at::Tensor y = unset({3, 48}, at::kBFloat16), dx = unset({3, 32}, at::kBFloat16);
  const Fp8Weight forward = quantise_weight(problem.w, Fp8Copies::kForward);
  const Fp8Weight backward = quantise_weight(problem.w, Fp8Copies::kBackward);
  EXPECT_THROW(fp8_linear_forward(problem.x, backward, {}, y), std::logic_error);
  EXPECT_THROW(fp8_linear_backward_input(problem.dy, forward, dx), std::logic_error);
  EXPECT_THROW(fp8_linear_forward(problem.dy, forward, {}, y), std::logic_error) << "48 inputs";
  EXPECT_THROW(fp8_linear_forward(problem.x, forward, random({48}, 1), y), std::logic_error)
      << "an fp32 bias";
}

}  // namespace
}  // namespace vax::ops::test
