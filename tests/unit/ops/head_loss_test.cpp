// Output head and cross entropy against autograd; chunks, extreme logits, missing gradients.
#include "ops/head_loss.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

using Targets = OnDevice<int64_t>;

// The operator with the sum as its result.
double head_loss(const at::Tensor& x, const at::Tensor& w, const Targets& targets,
                 double loss_scale, at::Tensor& dx, at::Tensor& dw, bool accumulate = true,
                 int64_t chunk_rows = 0) {
  at::Tensor loss_sum = number(0);
  ops::head_loss(x, w, targets, number(loss_scale), loss_sum, dx, dw, accumulate, chunk_rows);
  return loss_sum.item<double>();
}

Targets some_targets(int64_t num_rows, int64_t vocabulary) {
  std::vector<int64_t> targets(static_cast<size_t>(num_rows));
  for (int64_t i = 0; i < num_rows; ++i) {
    targets[static_cast<size_t>(i)] = (i * 31 + vocabulary - 1) % vocabulary;
  }
  return targets;
}

struct Oracle {
  double loss;
  at::Tensor dx, dw;
};

Oracle oracle(const at::Tensor& x, const at::Tensor& w, const Targets& targets, double loss_scale) {
  const at::Tensor x_ref = leaf(x), w_ref = leaf(w);
  const at::Tensor loss =
      at::cross_entropy_loss(at::mm(x_ref, w_ref.t()), targets.tensor(), {}, at::Reduction::Sum);
  (loss * loss_scale).backward();
  return {loss.item<double>(), x_ref.grad(), w_ref.grad()};
}

struct Case {
  int64_t rows, dim, vocabulary, chunk_rows;
  at::ScalarType type;
};

class HeadLossTest : public testing::TestWithParam<Case> {};

TEST_P(HeadLossTest, MatchesAutograd) {
  const auto [rows, dim, vocabulary, chunk_rows, type] = GetParam();
  const at::Tensor x = random({rows, dim}, 1, type), w = random({vocabulary, dim}, 2, type);
  const auto targets = some_targets(rows, vocabulary);
  const Oracle expected = oracle(x, w, targets, 0.25);
  at::Tensor dx = at::full_like(x, 7), dw = ones({vocabulary, dim});
  const double loss = head_loss(x, w, targets, 0.25, dx, dw, true, chunk_rows);
  EXPECT_NEAR(loss, expected.loss, tolerance(type) * std::abs(expected.loss));
  // bf16: the error of a logit of size 10 (2^-9 * 10 = 0.02) is a relative error of its softmax.
  const double bound = type == at::kFloat ? kFloatTolerance : 3e-2;
  VAX_EXPECT_CLOSE(dx, expected.dx, bound);
  VAX_EXPECT_CLOSE(dw, expected.dw + 1, bound);
  at::Tensor new_dw = unset({vocabulary, dim});
  head_loss(x, w, targets, 0.25, dx, new_dw, false, chunk_rows);
  VAX_EXPECT_CLOSE(new_dw, expected.dw, bound);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, HeadLossTest,
    testing::Values(Case{1, 5, 3, 0, at::kFloat}, Case{37, 24, 101, 0, at::kFloat},
                    Case{37, 24, 101, 10, at::kFloat}, Case{37, 24, 1, 0, at::kFloat},
                    Case{20, 16, 77, 0, at::kBFloat16}, Case{20, 16, 77, 3, at::kBFloat16},
                    // more logits than a block of a GPU has at a time
                    Case{5, 3, 8209, 2, at::kFloat}, Case{3, 3, 16504, 0, at::kBFloat16}));

TEST(HeadLossTest, ChunksDoNotChangeTheResult) {
  const at::Tensor x = random({50, 12}, 1), w = random({67, 12}, 2);
  const auto targets = some_targets(50, 67);
  at::Tensor dx_whole = at::empty_like(x), dw_whole = at::zeros_like(w);
  const double whole = head_loss(x, w, targets, 1, dx_whole, dw_whole, true, 50);
  for (const int64_t chunk_rows : {1, 7, 49}) {
    at::Tensor dx = at::empty_like(x), dw = at::zeros_like(w);
    // A GEMM may sum in another order for another number of rows: a few roundings of 6e-8.
    EXPECT_NEAR(head_loss(x, w, targets, 1, dx, dw, true, chunk_rows), whole, 1e-6 * whole);
    VAX_EXPECT_CLOSE(dx, dx_whole, 1e-6);
    VAX_EXPECT_CLOSE(dw, dw_whole, 1e-6);
  }
}

TEST(HeadLossTest, GradientsAreOptional) {
  const at::Tensor x = random({9, 8}, 1), w = random({21, 8}, 2);
  const auto targets = some_targets(9, 21);
  at::Tensor dx = at::empty_like(x), dw = at::zeros_like(w), none;
  const double loss = head_loss(x, w, targets, 1, dx, dw);
  at::Tensor only_dx = at::empty_like(x), only_dw = at::zeros_like(w);
  EXPECT_EQ(head_loss(x, w, targets, 1, only_dx, none), loss);
  EXPECT_EQ(head_loss(x, w, targets, 1, none, only_dw), loss);
  EXPECT_EQ(head_loss(x, w, targets, 1, none, none), loss);
  EXPECT_TRUE(same_bits(only_dx, dx));
  EXPECT_TRUE(same_bits(only_dw, dw));
}

TEST(HeadLossTest, ExtremeLogitsStayFinite) {
  // One column of w per logit: x picks them, so logits are exactly +-1e4 and 0.
  const at::Tensor x = tensor_of<float>({1e4f, -1e4f}).view({2, 1});
  const at::Tensor w = tensor_of<float>({1.0f, -1.0f, 0.0f}).view({3, 1});
  at::Tensor dx = at::empty_like(x), dw = at::zeros_like(w);
  const Targets targets({1, 1});  // the least and the most likely one
  const double loss = head_loss(x, w, targets, 1, dx, dw);
  EXPECT_NEAR(loss, 2e4, 1e-2);
  EXPECT_FLOAT_EQ(dx[0].item<float>(), 2.0f) << "z0 has p = 1, z1 has p - 1 = -1";
  EXPECT_FLOAT_EQ(dx[1].item<float>(), 0.0f);
  EXPECT_TRUE(at::isfinite(dw).all().item<bool>());
}

TEST(HeadLossTest, NotANumberIsNotHidden) {
  at::Tensor x = random({3, 4}, 1), none;
  x[1][2] = std::numeric_limits<float>::quiet_NaN();
  const auto targets = some_targets(3, 40);
  EXPECT_TRUE(std::isnan(head_loss(x, random({40, 4}, 2), targets, 1, none, none)));
}

TEST(HeadLossTest, TakesNoRows) {
  at::Tensor x = empty({0, 4}), dx = empty({0, 4}), dw = ones({5, 4});
  EXPECT_EQ(head_loss(x, ones({5, 4}), Targets({}), 1, dx, dw), 0);
  EXPECT_TRUE(same_bits(dw, ones({5, 4})));
  at::Tensor new_dw = unset({5, 4});
  EXPECT_EQ(head_loss(x, ones({5, 4}), Targets({}), 1, dx, new_dw, false), 0);
  EXPECT_TRUE(same_bits(new_dw, zeros({5, 4})));
}

TEST(HeadLossTest, RefusesTargetsOutsideTheVocabulary) {
  const at::Tensor x = random({1, 4}, 1), w = random({5, 4}, 2);
  at::Tensor none;
  for (const int64_t target : {int64_t{-100}, int64_t{5}}) {
    const Targets targets({target});
    EXPECT_THROW(head_loss(x, w, targets, 1, none, none), std::logic_error);
  }
}

}  // namespace
}  // namespace vax::ops::test
