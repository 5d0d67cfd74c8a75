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
  const at::Tensor positions = (at::arange(tokens, at::kInt) * 7) % 40;
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

TEST(RotaryTest, RefusesPositionsOutsideTheTable) {
  const Angles angles(4, 3);
  at::Tensor x = random({2, 1, 6}, 1);
  for (const int bad : {-1, 4}) {
    EXPECT_THROW(rotary_forward(x, angles.cos, angles.sin, at::tensor({0, bad}, at::kInt)),
                 std::logic_error);
  }
  EXPECT_THROW(rotary_forward(x, angles.cos, angles.sin, at::tensor({0, 1}, at::kLong)),
               std::logic_error);
  at::Tensor odd = random({2, 1, 5}, 1);
  EXPECT_THROW(rotary_forward(odd, angles.cos, angles.sin, at::tensor({0, 1}, at::kInt)),
               std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
