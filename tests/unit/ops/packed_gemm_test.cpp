// Own matrix products on every instruction set that this processor has: all layouts, edges of
// tiles, panels, blocks and chunks, and what the bits depend on.
#include "ops/packed_gemm.h"

#include <stdexcept>
#include <vector>

#include "ops/tensor_rows.h"
#include "ops_test.h"

namespace vax::ops::test {
namespace {

// Sums of up to 3000 terms, each rounded by 6e-8, relative to the largest of many such sums.
constexpr double kLongSumTolerance = 3e-5;

struct Shape {
  int64_t rows, cols, inner;
};

// Stored so that its rows are not adjacent; transposed: as the transpose of what is stored.
at::Tensor stored(const at::Tensor& matrix, bool transposed) {
  return transposed ? strided_copy(matrix.t()).t() : strided_copy(matrix);
}

GemmOperand operand(const at::Tensor& matrix, bool transposed) {
  return {const_rows(transposed ? matrix.t() : matrix), transposed};
}

struct Layout {
  bool a_transposed, b_transposed;
};

at::Tensor product(CpuTarget target, const at::Tensor& a, const at::Tensor& b, Layout layout,
                   at::Tensor c, bool accumulate = false, float alpha = 1) {
  const at::Tensor a_stored = stored(a, layout.a_transposed);
  const at::Tensor b_stored = stored(b, layout.b_transposed);
  packed_gemm(packed_gemm_kernels.on(target), {.rows = a.size(0),
                                               .cols = b.size(1),
                                               .inner = a.size(1),
                                               .a = operand(a_stored, layout.a_transposed),
                                               .b = operand(b_stored, layout.b_transposed),
                                               .c = c.mutable_data_ptr<float>(),
                                               .c_stride = c.stride(0),
                                               .alpha = alpha,
                                               .accumulate = accumulate});
  return c;
}

const std::vector<Shape> kShapes = {{1, 1, 1},     {3, 5, 2},     {14, 32, 16},
                                    {15, 33, 17},  {29, 100, 31}, {100, 70, 385},
                                    {40, 600, 90}, {600, 40, 90}, {50, 40, 3000}};

TEST(PackedGemmTest, MatchesLibTorchInEveryLayout) {
  for (const CpuTarget target : supported_targets()) {
    for (const Shape& shape : kShapes) {
      const at::Tensor a = random({shape.rows, shape.inner}, 1);
      const at::Tensor b = random({shape.inner, shape.cols}, 2);
      const at::Tensor expected = at::mm(a.to(at::kDouble), b.to(at::kDouble));
      for (const bool a_transposed : {false, true}) {
        for (const bool b_transposed : {false, true}) {
          const Layout layout{a_transposed, b_transposed};
          SCOPED_TRACE(testing::Message()
                       << name_of(target) << " " << shape.rows << " " << shape.cols << " "
                       << shape.inner << " " << a_transposed << b_transposed);
          const at::Tensor c =
              product(target, a, b, layout, strided_copy(unset({shape.rows, shape.cols})));
          VAX_EXPECT_CLOSE(c, expected, kLongSumTolerance);
          EXPECT_TRUE((c.as_strided({c.size(0), 2}, {c.stride(0), 1}, 0) == 77).all().item<bool>());
        }
      }
    }
  }
}

// Products of bf16 numbers are exact in fp32: only sums round.
TEST(PackedGemmTest, Bf16OperandsGiveAFloatResult) {
  for (const CpuTarget target : supported_targets()) {
    for (const Shape& shape : kShapes) {
      SCOPED_TRACE(testing::Message() << name_of(target) << " " << shape.rows << " " << shape.cols
                                      << " " << shape.inner);
      const at::Tensor a = random({shape.rows, shape.inner}, 1, at::kBFloat16);
      const at::Tensor b = random({shape.inner, shape.cols}, 2, at::kBFloat16);
      const at::Tensor c = product(target, a, b, {true, false}, unset({shape.rows, shape.cols}));
      VAX_EXPECT_CLOSE(c, at::mm(a.to(at::kDouble), b.to(at::kDouble)), kLongSumTolerance);
    }
  }
}

TEST(PackedGemmTest, AddsScaledProducts) {
  const at::Tensor a = random({30, 800}, 1), b = random({800, 50}, 2), before = random({30, 50}, 3);
  const at::Tensor exact = at::mm(a.to(at::kDouble), b.to(at::kDouble));
  for (const CpuTarget target : supported_targets()) {
    const at::Tensor added = product(target, a, b, {false, false}, before.clone(), true, 0.25f);
    VAX_EXPECT_CLOSE(added, before.to(at::kDouble) + 0.25 * exact, kLongSumTolerance);
    const at::Tensor written = product(target, a, b, {false, false}, unset({30, 50}), false, 0.25f);
    VAX_EXPECT_CLOSE(written, 0.25 * exact, kLongSumTolerance);
  }
}

TEST(PackedGemmTest, AnEmptyInnerDimensionGivesZeros) {
  const at::Tensor a = at::empty({3, 0}), b = at::empty({0, 4}), ones = at::ones({3, 4});
  const CpuTarget target = cpu_target();
  EXPECT_TRUE(same_bits(product(target, a, b, {false, false}, unset({3, 4})), at::zeros({3, 4})));
  EXPECT_TRUE(same_bits(product(target, a, b, {false, false}, ones.clone(), true), ones));
}

TEST(PackedGemmTest, BitsDependOnTheRowAndTheColumnOnly) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor a = random({300, 900}, 1, type), b = random({900, 400}, 2, type);
    const CpuTarget target = supported_targets().back();
    const auto multiply = [&](const at::Tensor& x, const at::Tensor& y) {
      return product(target, x, y, {true, false}, unset({x.size(0), y.size(1)}));
    };
    expect_same_on_any_threads([&] { return multiply(a, b); });
    const at::Tensor whole = multiply(a, b);
    const at::Tensor some = multiply(a.narrow(0, 17, 100), b.narrow(1, 3, 350));
    EXPECT_TRUE(same_bits(some, whole.narrow(0, 17, 100).narrow(1, 3, 350)));
  }
}

TEST(PackedGemmTest, NotANumberStaysInItsRow) {
  at::Tensor a = at::ones({20, 6});
  const at::Tensor b = at::ones({6, 40});
  a[15][5] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor c = product(cpu_target(), a, b, {false, false}, at::empty({20, 40}));
  EXPECT_TRUE(at::isnan(c[15]).all().item<bool>());
  EXPECT_EQ(at::isnan(c).sum().item<int64_t>(), 40);
}

TEST(PackedGemmTest, RefusesWhatItCannotPack) {
  const at::Tensor a = random({4, 6}, 1, at::kBFloat16), b = random({6, 5}, 2, at::kBFloat16);
  EXPECT_THROW(product(cpu_target(), a, b, {false, false}, at::empty({4, 5})), std::logic_error);
  EXPECT_THROW(product(cpu_target(), a, b, {true, true}, at::empty({4, 5})), std::logic_error);
  EXPECT_THROW(product(cpu_target(), a.to(at::kFloat), b, {true, false}, at::empty({4, 5})),
               std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
