// RMSNorm against autograd.
#include "ops/rms_norm.h"

#include <stdexcept>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

constexpr double kEps = 1e-5;

struct Case {
  int64_t rows, cols;
  at::ScalarType type;  // of w, y and dy
};

at::Tensor reference(const at::Tensor& x, const at::Tensor& w) {
  return x * at::rsqrt((x * x).mean(1, true) + kEps) * w;
}

class RmsNormTest : public testing::TestWithParam<Case> {};

TEST_P(RmsNormTest, MatchesAutograd) {
  const auto [rows, cols, type] = GetParam();
  const at::Tensor x = random({rows, cols}, 1), w = random({cols}, 2, type);
  const at::Tensor dy = random({rows, cols}, 3, type), dx_before = random({rows, cols}, 4);
  const at::Tensor x_ref = leaf(x), w_ref = leaf(w), y_ref = reference(x_ref, w_ref);
  y_ref.backward(dy.to(at::kDouble));

  at::Tensor y = at::empty({rows, cols}, w.options()), rstd = at::empty({rows});
  rms_norm_forward(x, w, kEps, y, rstd);
  VAX_EXPECT_CLOSE(y, y_ref, tolerance(type));
  at::Tensor again = at::empty_like(y);
  rms_norm_apply(x, w, rstd, again);
  EXPECT_TRUE(same_bits(y, again));
  at::Tensor dx = dx_before.clone(), dw = at::ones({cols});
  rms_norm_backward(dy, x, w, rstd, dx, dw);
  VAX_EXPECT_CLOSE(dx, dx_before.to(at::kDouble) + x_ref.grad(), kFloatTolerance);
  VAX_EXPECT_CLOSE(dw, w_ref.grad() + 1, kFloatTolerance);
  at::Tensor dx_again = dx_before.clone(), new_dw = unset({cols});
  rms_norm_backward(dy, x, w, rstd, dx_again, new_dw, false);
  EXPECT_TRUE(same_bits(dx, dx_again));
  VAX_EXPECT_CLOSE(new_dw, w_ref.grad(), kFloatTolerance);
  at::Tensor dx_only = dx_before.clone(), none;
  rms_norm_backward(dy, x, w, rstd, dx_only, none);
  EXPECT_TRUE(same_bits(dx, dx_only));
}

INSTANTIATE_TEST_SUITE_P(Shapes, RmsNormTest,
                         testing::Values(Case{1, 1, at::kFloat}, Case{1, 37, at::kFloat},
                                         Case{5, 64, at::kFloat}, Case{200, 131, at::kFloat},
                                         Case{0, 16, at::kFloat}, Case{3, 37, at::kBFloat16},
                                         Case{200, 96, at::kBFloat16}));

TEST(RmsNormTest, ZerosAndLargeValuesStayFinite) {
  at::Tensor x = at::zeros({2, 8}), y = at::empty({2, 8}), rstd = at::empty({2});
  x[1].fill_(1e15);
  rms_norm_forward(x, at::ones({8}), kEps, y, rstd);
  EXPECT_TRUE((y[0] == 0).all().item<bool>());
  VAX_EXPECT_CLOSE(y[1], at::ones({8}), kFloatTolerance);
}

TEST(RmsNormTest, IsTheSameOnAnyThreads) {
  const at::Tensor x = random({700, 96}, 1), w = random({96}, 2), dy = random({700, 96}, 3);
  const at::Tensor rstd = at::ones({700});
  expect_same_on_any_threads([&] {
    at::Tensor dx = at::zeros_like(x), dw = at::zeros({96});
    rms_norm_backward(dy, x, w, rstd, dx, dw);
    return at::cat({dx, dw.view({1, 96})});
  });
}

TEST(RmsNormTest, RefusesShapesThatDoNotFit) {
  at::Tensor x = at::ones({2, 8}), y = at::ones({2, 8}), rstd = at::ones({3});
  EXPECT_THROW(rms_norm_forward(x, at::ones({8}), kEps, y, rstd), std::logic_error);
  at::Tensor fitting = at::ones({2});
  EXPECT_THROW(rms_norm_forward(x, at::ones({7}), kEps, y, fitting), std::logic_error);
  EXPECT_THROW(rms_norm_forward(x.t(), at::ones({2}), kEps, y, rstd), std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
