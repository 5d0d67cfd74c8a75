// SwiGLU against autograd.
#include "ops/swiglu.h"

#include <stdexcept>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

struct Case {
  int64_t rows, cols;
  at::ScalarType type;
};

class SwigluTest : public testing::TestWithParam<Case> {};

TEST_P(SwigluTest, MatchesAutograd) {
  const auto [rows, cols, type] = GetParam();
  const at::Tensor gate_up = random({rows, 2 * cols}, 1, type) * 4;
  const at::Tensor dy = random({rows, cols}, 2, type);
  const at::Tensor ref = leaf(gate_up);
  const at::Tensor y_ref = at::silu(ref.narrow(1, 0, cols)) * ref.narrow(1, cols, cols);
  y_ref.backward(dy.to(at::kDouble));

  at::Tensor y = empty({rows, cols}, gate_up.options());
  swiglu_forward(gate_up, y);
  VAX_EXPECT_CLOSE(y, y_ref, tolerance(type));
  at::Tensor dgate_up = at::full_like(gate_up, 7);
  swiglu_backward(dy, gate_up, dgate_up);
  VAX_EXPECT_CLOSE(dgate_up, ref.grad(), tolerance(type));
  at::Tensor in_place = gate_up.clone();
  swiglu_backward(dy, in_place, in_place);
  EXPECT_TRUE(same_bits(in_place, dgate_up));
}

INSTANTIATE_TEST_SUITE_P(Shapes, SwigluTest,
                         testing::Values(Case{1, 1, at::kFloat}, Case{3, 37, at::kFloat},
                                         Case{90, 300, at::kFloat}, Case{0, 8, at::kFloat},
                                         Case{3, 37, at::kBFloat16}, Case{40, 64, at::kBFloat16}));

TEST(SwigluTest, StridedRowsGiveTheSameBits) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor gate_up = random({5, 64}, 1, type), dy = random({5, 32}, 2, type);
    at::Tensor y = empty({5, 32}, type), strided_y = strided_copy(y);
    swiglu_forward(gate_up, y);
    swiglu_forward(strided_copy(gate_up), strided_y);
    EXPECT_TRUE(same_bits(y, strided_y));
    at::Tensor dgate_up = empty({5, 64}, type), strided = strided_copy(dgate_up);
    swiglu_backward(dy, gate_up, dgate_up);
    swiglu_backward(strided_copy(dy), strided_copy(gate_up), strided);
    EXPECT_TRUE(same_bits(dgate_up, strided));
  }
}

TEST(SwigluTest, SaturatesAtBothEnds) {
  const at::Tensor gate = tensor_of<float>({-1e30f, -1e4f, -100.0f, 100.0f, 1e4f, 1e30f});
  const at::Tensor gate_up = at::cat({gate, ones({6})}).view({1, 12});
  at::Tensor y = empty({1, 6}), dgate_up = empty({1, 12});
  swiglu_forward(gate_up, y);
  swiglu_backward(ones({1, 6}), gate_up, dgate_up);
  const at::Tensor expected =
      tensor_of<float>({0.0f, 0.0f, 0.0f, 100.0f, 1e4f, 1e30f}).view({1, 6});
  EXPECT_TRUE(at::allclose(y, expected, 1e-6, 1e-37)) << y;
  EXPECT_TRUE(at::allclose(dgate_up.narrow(1, 0, 6),
                           tensor_of<float>({0.0f, 0.0f, 0.0f, 1.0f, 1.0f, 1.0f}).view({1, 6}),
                           1e-6, 1e-37))
      << dgate_up;
}

TEST(SwigluTest, RefusesShapesAndTypesThatDoNotFit) {
  at::Tensor y = empty({2, 3}), half = empty({2, 3}, at::kBFloat16);
  EXPECT_THROW(swiglu_forward(ones({2, 7}), y), std::logic_error);
  EXPECT_THROW(swiglu_forward(ones({2, 6}), half), std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
