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

  at::Tensor y = empty({rows, cols}, w.options()), rstd = empty({rows});
  rms_norm_forward(x, w, kEps, y, rstd);
  VAX_EXPECT_CLOSE(y, y_ref, tolerance(type));
  at::Tensor again = at::empty_like(y);
  rms_norm_apply(x, w, rstd, again);
  EXPECT_TRUE(same_bits(y, again));
  at::Tensor dx = dx_before.clone(), dw = ones({cols});
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
                                         Case{200, 96, at::kBFloat16},
                                         // rows that a block of a GPU cannot keep, and more rows
                                         // than partial sums
                                         Case{2, 16501, at::kFloat}, Case{270, 8204, at::kBFloat16},
                                         Case{530, 44, at::kFloat}));

// A column block of a wider matrix: rows begin anywhere.
TEST(RmsNormTest, StridedRowsGiveTheSameBits) {
  const at::Tensor x = random({7, 100}, 1), w = random({100}, 2), dy = random({7, 100}, 3);
  at::Tensor y = empty({7, 100}), rstd = empty({7}), dx = random({7, 100}, 4), dw = zeros({100});
  at::Tensor strided_y = strided_copy(y), again = empty({7}), strided_dx = strided_copy(dx);
  at::Tensor dw_again = zeros({100});
  rms_norm_forward(x, w, kEps, y, rstd);
  rms_norm_forward(strided_copy(x), w, kEps, strided_y, again);
  EXPECT_TRUE(same_bits(y, strided_y));
  EXPECT_TRUE(same_bits(rstd, again));
  rms_norm_apply(strided_copy(x), w, rstd, strided_y.zero_());
  EXPECT_TRUE(same_bits(y, strided_y));
  rms_norm_backward(dy, x, w, rstd, dx, dw);
  rms_norm_backward(strided_copy(dy), strided_copy(x), w, rstd, strided_dx, dw_again);
  EXPECT_TRUE(same_bits(dx, strided_dx));
  EXPECT_TRUE(same_bits(dw, dw_again));
}

TEST(RmsNormTest, ZerosAndLargeValuesStayFinite) {
  at::Tensor x = zeros({2, 8}), y = empty({2, 8}), rstd = empty({2});
  x[1].fill_(1e15);
  rms_norm_forward(x, ones({8}), kEps, y, rstd);
  EXPECT_TRUE((y[0] == 0).all().item<bool>());
  VAX_EXPECT_CLOSE(y[1], ones({8}), kFloatTolerance);
}

TEST(RmsNormTest, IsTheSameOnAnyThreads) {
  const at::Tensor x = random({700, 96}, 1), w = random({96}, 2), dy = random({700, 96}, 3);
  const at::Tensor rstd = ones({700});
  expect_same_on_any_threads([&] {
    at::Tensor dx = at::zeros_like(x), dw = zeros({96});
    rms_norm_backward(dy, x, w, rstd, dx, dw);
    return at::cat({dx, dw.view({1, 96})});
  });
}

TEST(RmsNormTest, RefusesShapesThatDoNotFit) {
  at::Tensor x = ones({2, 8}), y = ones({2, 8}), rstd = ones({3});
  EXPECT_THROW(rms_norm_forward(x, ones({8}), kEps, y, rstd), std::logic_error);
  at::Tensor fitting = ones({2});
  EXPECT_THROW(rms_norm_forward(x, ones({7}), kEps, y, fitting), std::logic_error);
  EXPECT_THROW(rms_norm_forward(x.t(), ones({2}), kEps, y, rstd), std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
