// Layer norm against autograd.
#include "ops/layer_norm.h"

#include <stdexcept>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

constexpr double kEps = 1e-5;

struct Case {
  int64_t rows, cols;
  at::ScalarType type;  // of w, b, y and dy
};

at::Tensor reference(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) {
  const at::Tensor centred = x - x.mean(1, true);
  return centred * at::rsqrt((centred * centred).mean(1, true) + kEps) * w + b;
}

// Rows far from 0: the variance must not be a difference of large numbers.
at::Tensor rows_with_mean(int64_t rows, int64_t cols) { return random({rows, cols}, 1) + 3; }

struct Gradients {
  at::Tensor dx, dw, db;
};

class LayerNormTest : public testing::TestWithParam<Case> {};

TEST_P(LayerNormTest, MatchesAutograd) {
  const auto [rows, cols, type] = GetParam();
  const at::Tensor x = rows_with_mean(rows, cols), w = random({cols}, 2, type);
  const at::Tensor b = random({cols}, 3, type), dy = random({rows, cols}, 4, type);
  const at::Tensor dx_before = random({rows, cols}, 5);
  const at::Tensor x_ref = leaf(x), w_ref = leaf(w), b_ref = leaf(b);
  const at::Tensor y_ref = reference(x_ref, w_ref, b_ref);
  y_ref.backward(dy.to(at::kDouble));

  at::Tensor y = empty({rows, cols}, w.options()), mean = unset({rows}), rstd = unset({rows});
  layer_norm_forward(x, w, b, kEps, y, mean, rstd);
  VAX_EXPECT_CLOSE(y, y_ref, tolerance(type));
  at::Tensor again = at::empty_like(y);
  layer_norm_apply(x, w, b, mean, rstd, again);
  EXPECT_TRUE(same_bits(y, again));

  // rstd multiplies the rounding of x - mean (x is 3 on average), and narrow rows have large ones.
  const double bound = cols < 4 ? 1e-3 : 2 * kFloatTolerance;
  Gradients sums{dx_before.clone(), ones({cols}), ones({cols})};
  layer_norm_backward(dy, x, w, mean, rstd, sums.dx, sums.dw, sums.db);
  VAX_EXPECT_CLOSE(sums.dx, dx_before.to(at::kDouble) + x_ref.grad(), bound);
  VAX_EXPECT_CLOSE(sums.dw, w_ref.grad() + 1, bound);
  VAX_EXPECT_CLOSE(sums.db, b_ref.grad() + 1, bound);
  Gradients written{dx_before.clone(), unset({cols}), unset({cols})};
  layer_norm_backward(dy, x, w, mean, rstd, written.dx, written.dw, written.db, false);
  EXPECT_TRUE(same_bits(written.dx, sums.dx));
  VAX_EXPECT_CLOSE(written.dw, w_ref.grad(), bound);
  VAX_EXPECT_CLOSE(written.db, b_ref.grad(), bound);
  at::Tensor dx_only = dx_before.clone(), none;
  layer_norm_backward(dy, x, w, mean, rstd, dx_only, none, none);
  EXPECT_TRUE(same_bits(dx_only, sums.dx));
}

INSTANTIATE_TEST_SUITE_P(Shapes, LayerNormTest,
                         testing::Values(Case{1, 1, at::kFloat}, Case{1, 37, at::kFloat},
                                         Case{5, 64, at::kFloat}, Case{200, 131, at::kFloat},
                                         Case{0, 16, at::kFloat}, Case{3, 37, at::kBFloat16},
                                         Case{200, 96, at::kBFloat16},
                                         // rows that a block of a GPU cannot keep, and more rows
                                         // than partial sums
                                         Case{2, 16501, at::kFloat}, Case{270, 8204, at::kBFloat16},
                                         Case{530, 44, at::kFloat}));

// A column block of a wider matrix: rows begin anywhere.
TEST(LayerNormTest, StridedRowsGiveTheSameBits) {
  const at::Tensor x = rows_with_mean(7, 100), w = random({100}, 2), b = random({100}, 3);
  const at::Tensor dy = random({7, 100}, 4), dx_before = random({7, 100}, 5);
  at::Tensor y = empty({7, 100}), mean = empty({7}), rstd = empty({7});
  layer_norm_forward(x, w, b, kEps, y, mean, rstd);
  at::Tensor strided_y = strided_copy(zeros({7, 100})), mean_again = empty({7});
  at::Tensor rstd_again = empty({7});
  layer_norm_forward(strided_copy(x), w, b, kEps, strided_y, mean_again, rstd_again);
  EXPECT_TRUE(same_bits(y, strided_y));
  EXPECT_TRUE(same_bits(mean, mean_again));
  EXPECT_TRUE(same_bits(rstd, rstd_again));
  layer_norm_apply(strided_copy(x), w, b, mean, rstd, strided_y.zero_());
  EXPECT_TRUE(same_bits(y, strided_y));
  Gradients plain{dx_before.clone(), zeros({100}), zeros({100})};
  layer_norm_backward(dy, x, w, mean, rstd, plain.dx, plain.dw, plain.db);
  Gradients strided{strided_copy(dx_before), zeros({100}), zeros({100})};
  layer_norm_backward(strided_copy(dy), strided_copy(x), w, mean, rstd, strided.dx, strided.dw,
                      strided.db);
  EXPECT_TRUE(same_bits(plain.dx, strided.dx));
  EXPECT_TRUE(same_bits(plain.dw, strided.dw));
  EXPECT_TRUE(same_bits(plain.db, strided.db));
}

TEST(LayerNormTest, RowsOfOneValueBecomeTheBias) {
  const at::Tensor b = random({8}, 1);
  at::Tensor x = zeros({2, 8}), y = empty({2, 8}), mean = empty({2}), rstd = empty({2});
  x[1].fill_(1e15);
  layer_norm_forward(x, ones({8}), b, kEps, y, mean, rstd);
  EXPECT_TRUE(same_bits(y[0], b));
  EXPECT_TRUE(same_bits(y[1], b));
}

TEST(LayerNormTest, IsTheSameOnAnyThreads) {
  const at::Tensor x = rows_with_mean(700, 96), w = random({96}, 2), dy = random({700, 96}, 3);
  const at::Tensor mean = zeros({700}), rstd = ones({700});
  expect_same_on_any_threads([&] {
    Gradients grads{at::zeros_like(x), zeros({96}), zeros({96})};
    layer_norm_backward(dy, x, w, mean, rstd, grads.dx, grads.dw, grads.db);
    return at::cat({grads.dx, grads.dw.view({1, 96}), grads.db.view({1, 96})});
  });
}

TEST(LayerNormTest, RefusesShapesThatDoNotFit) {
  at::Tensor x = ones({2, 8}), y = ones({2, 8}), two = ones({2}), three = ones({3});
  const at::Tensor w = ones({8});
  EXPECT_THROW(layer_norm_forward(x, w, w, kEps, y, two, three), std::logic_error);
  EXPECT_THROW(layer_norm_forward(x, w, w, kEps, y, three, two), std::logic_error);
  EXPECT_THROW(layer_norm_forward(x, w, ones({7}), kEps, y, two, two), std::logic_error);
  EXPECT_THROW(layer_norm_forward(x, w, w.to(at::kBFloat16), kEps, y, two, two), std::logic_error);
  at::Tensor dx = ones({2, 8}), dw = ones({8}), none;
  EXPECT_THROW(layer_norm_backward(y, x, w, two, two, dx, dw, none), std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
