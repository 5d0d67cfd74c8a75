// Linear layers against autograd: shapes, types, accumulation, errors.
#include "ops/linear.h"

#include <stdexcept>
#include <string>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

struct Case {
  int64_t tokens, inputs, outputs;
  at::ScalarType type;
};

class LinearTest : public testing::TestWithParam<Case> {};

TEST_P(LinearTest, MatchesAutograd) {
  const auto [tokens, inputs, outputs, type] = GetParam();
  const at::Tensor x = random({tokens, inputs}, 1, type), w = random({outputs, inputs}, 2, type);
  const at::Tensor bias = random({outputs}, 3, type), dy = random({tokens, outputs}, 4, type);
  const at::Tensor x_ref = leaf(x), w_ref = leaf(w), bias_ref = leaf(bias);
  const at::Tensor y_ref = at::linear(x_ref, w_ref, bias_ref);
  y_ref.backward(dy.to(at::kDouble));

  at::Tensor y = full({tokens, outputs}, 7, x.options());
  linear_forward(x, w, bias, y);
  VAX_EXPECT_CLOSE(y, y_ref, tolerance(type));
  at::Tensor dx = at::full_like(x, 7);
  linear_backward_input(dy, w, dx, false);
  VAX_EXPECT_CLOSE(dx, x_ref.grad(), tolerance(type));
  at::Tensor dw = ones({outputs, inputs}), db = ones({outputs});
  linear_backward_weight(dy, x, dw);
  linear_backward_bias(dy, db);
  VAX_EXPECT_CLOSE(dw, w_ref.grad() + 1, tolerance(type));
  VAX_EXPECT_CLOSE(db, bias_ref.grad() + 1, kFloatTolerance);
  at::Tensor new_dw = unset({outputs, inputs}), new_db = unset({outputs});
  linear_backward_weight(dy, x, new_dw, false);
  linear_backward_bias(dy, new_db, false);
  VAX_EXPECT_CLOSE(new_dw, w_ref.grad(), tolerance(type));
  VAX_EXPECT_CLOSE(new_db, bias_ref.grad(), kFloatTolerance);
}

INSTANTIATE_TEST_SUITE_P(Shapes, LinearTest,
                         testing::Values(Case{5, 7, 3, at::kFloat}, Case{1, 33, 17, at::kFloat},
                                         Case{130, 64, 96, at::kFloat}, Case{0, 4, 3, at::kFloat},
                                         Case{5, 7, 3, at::kBFloat16},
                                         Case{70, 64, 96, at::kBFloat16},
                                         Case{0, 4, 3, at::kBFloat16},
                                         // dW in three blocks of output rows
                                         Case{2, 9000, 300, at::kBFloat16}));

TEST(LinearTest, WithoutBiasIntoAColumnBlock) {
  const at::Tensor x = random({6, 5}, 1), w = random({4, 5}, 2);
  at::Tensor y = strided_copy(zeros({6, 4}));
  linear_forward(x, w, {}, y);
  VAX_EXPECT_CLOSE(y, at::mm(x, w.t()), kFloatTolerance);
  EXPECT_EQ(y.stride(0), 9) << "y must be written in place, not reallocated";
}

TEST(LinearTest, AccumulatesIntoDx) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor dy = random({6, 4}, 1, type), w = random({4, 5}, 2, type);
    const at::Tensor before = random({6, 5}, 3, type);
    at::Tensor dx = before.clone();
    linear_backward_input(strided_copy(dy), w, dx, true);
    const at::Tensor expected =
        before.to(at::kDouble) + at::mm(dy.to(at::kDouble), w.to(at::kDouble));
    VAX_EXPECT_CLOSE(dx, expected, tolerance(type));
  }
}

// A gradient may lie in a column block of a wider matrix, as one projection of a fused one does.
TEST(LinearTest, WeightGradientIntoAColumnBlock) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor dy = random({6, 4}, 1, type), x = random({6, 5}, 2, type);
    const at::Tensor expected = at::mm(dy.t().to(at::kDouble), x.to(at::kDouble));
    at::Tensor dw = strided_copy(zeros({4, 5}));
    linear_backward_weight(strided_copy(dy), strided_copy(x), dw, false);
    VAX_EXPECT_CLOSE(dw, expected, tolerance(type));
    linear_backward_weight(dy, x, dw, true);
    VAX_EXPECT_CLOSE(dw, 2 * expected, tolerance(type));
    EXPECT_EQ(dw.stride(0), 10) << "dw must be written in place, not reallocated";
    EXPECT_TRUE((dw.as_strided({4, 10}, {10, 1}, 0).narrow(1, 7, 3) == 77).all().item<bool>());
  }
}

TEST(LinearTest, BiasGradientIsTheSameOnAnyThreads) {
  const at::Tensor dy = random({500, 3000}, 1);
  expect_same_on_any_threads([&] {
    at::Tensor db = zeros({3000});
    linear_backward_bias(dy, db);
    return db;
  });
}

TEST(LinearTest, SaysWhatIsWrong) {
  const at::Tensor x = zeros({3, 4}), w = zeros({5, 4});
  at::Tensor narrow = zeros({3, 4}), half = zeros({3, 5}, at::kHalf);
  at::Tensor mixed = zeros({3, 5}, at::kBFloat16);
  at::Tensor elsewhere = zeros({3, 5}, at::TensorOptions().device(at::kMeta));
  EXPECT_THROW(linear_forward(x, w, {}, narrow), std::logic_error);
  EXPECT_THROW(linear_forward(x, w, {}, half), std::logic_error);
  EXPECT_THROW(linear_forward(x, w, {}, mixed), std::logic_error);
  try {
    linear_forward(x, w, {}, elsewhere);
    FAIL() << "a tensor on another device was accepted";
  } catch (const std::logic_error& error) {
    EXPECT_NE(std::string(error.what()).find("y is on meta"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace vax::ops::test
