// Rows without a label in device memory: target -1, as in batches of one fixed shape.
#include <cmath>
#include <limits>
#include <vector>

#include "ops/head_loss.h"
#include "ops_test.h"

namespace vax::ops::test {
namespace {

struct Result {
  double loss;
  at::Tensor dx, dw;
};

Result run(const at::Tensor& x, const at::Tensor& w, const std::vector<int64_t>& targets) {
  Result r{0, unset(x.sizes(), x.scalar_type()), unset(w.sizes())};
  at::Tensor loss_sum = number(10);
  head_loss(x, w, OnDevice(targets), number(0.5), loss_sum, r.dx, r.dw, false, 4);
  r.loss = loss_sum.item<double>() - 10;
  return r;
}

TEST(IgnoredTargetsTest, CountForNothing) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor w = random({101, 8}, 1, type);
    at::Tensor x = random({6, 8}, 2, type);
    x[1].fill_(1e4);
    const std::vector<int64_t> targets = {3, -1, 100, -1, 0, 7};
    const at::Tensor kept = at::tensor(std::vector<int64_t>{0, 2, 4, 5}).to(x.device());
    const Result expected = run(x.index_select(0, kept), w, {3, 100, 0, 7});
    const Result actual = run(x, w, targets);
    // The same terms, in products of another number of rows: fp32 sums of at most 6 terms, and in
    // bf16 the rounding of each product.
    const double bound = type == at::kFloat ? 1e-6 : kBf16Tolerance;
    EXPECT_NEAR(actual.loss, expected.loss, bound * expected.loss);
    VAX_EXPECT_CLOSE(actual.dx.index_select(0, kept), expected.dx, bound);
    VAX_EXPECT_CLOSE(actual.dw, expected.dw, bound);
    EXPECT_TRUE((actual.dx[1] == 0).all().item<bool>());
    EXPECT_TRUE((actual.dx[3] == 0).all().item<bool>());
  }
}

TEST(IgnoredTargetsTest, ANanInARowWithoutALabelStaysThere) {
  const at::Tensor w = random({40, 8}, 1);
  at::Tensor x = random({3, 8}, 2);
  x[1].fill_(std::numeric_limits<float>::quiet_NaN());
  at::Tensor loss_sum = number(0), dx = unset({3, 8}), none;
  head_loss(x, w, OnDevice<int64_t>({1, -1, 2}), number(1), loss_sum, dx, none);
  EXPECT_TRUE(std::isfinite(loss_sum.item<double>()));
  EXPECT_TRUE((dx[1] == 0).all().item<bool>());
}

}  // namespace
}  // namespace vax::ops::test
