// Rotary embedding against autograd of Hugging Face's formula, in place in a fused matrix.
#include "ops/rotary.h"

#include <stdexcept>
#include <vector>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

struct Angles {
  at::Tensor cos, sin;
  Angles(int64_t positions, int64_t half_dim) {
    const at::Tensor angles = random({positions, half_dim}, 9) * 3;
    cos = at::cos(angles);
    sin = at::sin(angles);
  }
};

// Hugging Face: x * cos + rotate_half(x) * sin, with cos and sin repeated over both halves.
at::Tensor reference(const at::Tensor& x, const Angles& angles, const at::Tensor& positions) {
  const int64_t half = x.size(2) / 2;
  const auto rows = [&](const at::Tensor& table) {
    const at::Tensor picked = table.to(at::kDouble).index_select(0, positions).unsqueeze(1);
    return at::cat({picked, picked}, 2);
  };
  const at::Tensor rotated = at::cat({-x.narrow(2, half, half), x.narrow(2, 0, half)}, 2);
  return x * rows(angles.cos) + rotated * rows(angles.sin);
}

struct Case {
  int64_t tokens, heads, dim;
  at::ScalarType type;
};

class RotaryTest : public testing::TestWithParam<Case> {};

TEST_P(RotaryTest, MatchesAutograd) {
  const auto [tokens, heads, dim, type] = GetParam();
  const Angles angles(40, dim / 2);
  const at::Tensor positions = (at::arange(tokens, on_device(at::kInt)) * 7) % 40;
  // The middle heads of a fused matrix with one head on each side.
  at::Tensor fused = random({tokens, heads + 2, dim}, 1, type);
  at::Tensor x = fused.narrow(1, 1, heads);
  at::Tensor dx = random({tokens, heads, dim}, 2, type);
  const at::Tensor before = fused.clone(), x_ref = leaf(x);
  const at::Tensor y_ref = reference(x_ref, angles, positions);
  y_ref.backward(dx.to(at::kDouble));

  rotary_forward(x, angles.cos, angles.sin, positions);
  VAX_EXPECT_CLOSE(x, y_ref, tolerance(type));
  EXPECT_TRUE(same_bits(fused.narrow(1, 0, 1), before.narrow(1, 0, 1)));
  EXPECT_TRUE(same_bits(fused.narrow(1, heads + 1, 1), before.narrow(1, heads + 1, 1)));
  rotary_backward(dx, angles.cos, angles.sin, positions);
  VAX_EXPECT_CLOSE(dx, x_ref.grad(), tolerance(type));
}

INSTANTIATE_TEST_SUITE_P(Shapes, RotaryTest,
                         testing::Values(Case{1, 1, 2, at::kFloat}, Case{9, 3, 6, at::kFloat},
                                         Case{300, 4, 64, at::kFloat}, Case{0, 2, 8, at::kFloat},
                                         Case{9, 3, 6, at::kBFloat16},
                                         Case{50, 2, 80, at::kBFloat16}));

TEST(RotaryTest, StridedHeadsGiveTheSameBits) {
  const Angles angles(6, 16);
  const at::Tensor positions = tensor_of<int32_t>({5, 0, 3});
  at::Tensor x = random({3, 2, 32}, 1);
  // Tokens are 2 * 32 + 5 elements apart and begin at element 2.
  at::Tensor strided = strided_copy(x.view({3, 64})).unflatten(1, {2, 32});
  rotary_forward(x, angles.cos, angles.sin, positions);
  rotary_forward(strided, angles.cos, angles.sin, positions);
  EXPECT_TRUE(same_bits(x, strided));
}

TEST(RotaryTest, RefusesPositionsOutsideTheTable) {
  const Angles angles(4, 3);
  at::Tensor x = random({2, 1, 6}, 1);
  for (const int bad : {-1, 4}) {
    EXPECT_THROW(rotary_forward(x, angles.cos, angles.sin, tensor_of<int32_t>({0, bad})),
                 std::logic_error);
  }
}

TEST(RotaryTest, RefusesWhatDoesNotFit) {
  const Angles angles(4, 3);
  at::Tensor x = random({2, 1, 6}, 1);
  EXPECT_THROW(rotary_forward(x, angles.cos, angles.sin, tensor_of<int64_t>({0, 1})),
               std::logic_error);
  at::Tensor odd = random({2, 1, 5}, 1);
  EXPECT_THROW(rotary_forward(odd, angles.cos, angles.sin, tensor_of<int32_t>({0, 1})),
               std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
