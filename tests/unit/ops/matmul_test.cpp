// The choice between libraries must not show: both sides of every limit, all types and layouts.
#include "ops/matmul.h"

#include <stdexcept>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

struct Case {
  int64_t rows, cols, inner;
  at::ScalarType type;
};

class MatmulTest : public testing::TestWithParam<Case> {};

at::Tensor transposed_copy(const at::Tensor& matrix) { return matrix.t().contiguous().t(); }

TEST_P(MatmulTest, MatchesDoublePrecision) {
  const auto [rows, cols, inner, type] = GetParam();
  const at::Tensor a = random({rows, inner}, 1, type), b = random({inner, cols}, 2, type);
  const at::Tensor before = random({rows, cols}, 3, type);
  const at::Tensor expected = at::mm(a.to(at::kDouble), b.to(at::kDouble));
  for (const at::Tensor& a_layout : {a, transposed_copy(a)}) {
    for (const at::Tensor& b_layout : {b, transposed_copy(b)}) {
      at::Tensor c = strided_copy(unset({rows, cols}, type));
      matmul(a_layout, b_layout, c, false);
      VAX_EXPECT_CLOSE(c, expected, tolerance(type));
      c = before.clone();
      matmul(a_layout, b_layout, c, true);
      VAX_EXPECT_CLOSE(c, expected + before.to(at::kDouble), tolerance(type));
    }
  }
}

TEST_P(MatmulTest, WritesAndAddsFloatProductsOfBf16) {
  const auto [rows, cols, inner, type] = GetParam();
  if (type != at::kBFloat16) return;
  const at::Tensor a = transposed_copy(random({rows, inner}, 1, type));
  const at::Tensor b = random({inner, cols}, 2, type), before = random({rows, cols}, 3);
  const at::Tensor expected = at::mm(a.to(at::kDouble), b.to(at::kDouble));
  at::Tensor c = strided_copy(unset({rows, cols}));
  matmul_to_float(a, b, c, false);
  VAX_EXPECT_CLOSE(c, expected, tolerance(type));
  c = before.clone();
  matmul_to_float(a, b, c, true);
  VAX_EXPECT_CLOSE(c, expected + before, tolerance(type));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, MatmulTest,
    testing::Values(Case{1, 1, 1, at::kFloat}, Case{31, 40, 50, at::kFloat},
                    Case{32, 32, 32, at::kFloat}, Case{70, 90, 110, at::kFloat},
                    Case{50, 0, 40, at::kFloat}, Case{40, 50, 0, at::kFloat},
                    Case{31, 40, 50, at::kBFloat16}, Case{32, 32, 33, at::kBFloat16},
                    Case{70, 90, 110, at::kBFloat16}, Case{40, 50, 0, at::kBFloat16}));

TEST(MatmulTest, RefusesWhatDoesNotFit) {
  at::Tensor a = ones({4, 6}), b = ones({6, 5}), c = empty({4, 4});
  at::Tensor bf16 = empty({4, 5}, at::kBFloat16), fitting = empty({4, 5});
  EXPECT_THROW(matmul(a, b, c, false), std::logic_error);
  EXPECT_THROW(matmul(a, b, bf16, false), std::logic_error);
  EXPECT_THROW(matmul(a, b.t(), fitting, false), std::logic_error);
  EXPECT_THROW(matmul_to_float(a, b, bf16, false), std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
