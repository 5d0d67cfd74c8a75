// What operators take in device memory alone: key words of dropout masks, which a captured sequence
// of launches reads anew each time, and target -1 for rows without a label, as in batches of one
// fixed shape.
#include <cmath>
#include <limits>
#include <vector>

#include "base/philox.h"
#include "ops/dropout.h"
#include "ops/head_loss.h"
#include "ops/lora.h"
#include "ops_test.h"

namespace vax::ops::test {
namespace {

constexpr int64_t kTokens = 9, kInputs = 40, kOutputs = 24, kRank = 4;

class DropoutKeyTest : public ::testing::Test {
 protected:
  DropoutKey key(uint64_t seed, uint64_t stream) const {
    return {.p = 0.4,
            .seed = seed,
            .stream = stream,
            .site = 3,
            .rows = rows_.span(),
            .positions = positions_.span()};
  }
  // Its own seed and stream must not count.
  DropoutKey key_of(const OnDevice<int32_t>& words) const {
    DropoutKey result = key(99, 98);
    result.device_key = reinterpret_cast<const uint32_t*>(words.span().data());
    return result;
  }
  static OnDevice<int32_t> words(uint64_t seed, uint64_t stream) {
    const PhiloxKey key = philox_key(seed, stream);
    return std::vector<int32_t>{static_cast<int32_t>(key[0]), static_cast<int32_t>(key[1])};
  }

  OnDevice<int32_t> rows_{std::vector<int32_t>{0, 0, 0, 1, 1, 1, 2, 2, 2}};
  OnDevice<int32_t> positions_{std::vector<int32_t>{0, 1, 2, 0, 1, 2, 0, 1, 2}};
};

TEST_F(DropoutKeyTest, WordsInDeviceMemoryReplaceSeedAndStream) {
  const OnDevice<int32_t> device_words = words(5, 6);
  at::Tensor expected = ones({kTokens, kInputs}), actual = ones({kTokens, kInputs});
  at::Tensor other = ones({kTokens, kInputs});
  dropout(expected, key(5, 6), expected);
  dropout(actual, key_of(device_words), actual);
  dropout(other, key(5, 7), other);
  EXPECT_TRUE(same_bits(actual, expected));
  EXPECT_FALSE(same_bits(other, expected));
}

TEST_F(DropoutKeyTest, ReachesEveryKernelOfTheLowRankBranch) {
  const at::Tensor x = random({kTokens, kInputs}, 1), a = random({kRank, kInputs}, 2);
  const at::Tensor b = random({kOutputs, kRank}, 3), dy = random({kTokens, kOutputs}, 4);
  const OnDevice<int32_t> device_words = words(5, 6);
  const auto run = [&](const DropoutKey& key) {
    at::Tensor u = unset({kTokens, kRank}), y = zeros({kTokens, kOutputs});
    at::Tensor dx = zeros({kTokens, kInputs}), da = unset(a.sizes()), db = unset(b.sizes());
    lora_forward(x, a, b, 2, key, u, y);
    lora_backward(dy, x, u, a, b, 2, key, dx, da, db, false);
    return std::vector<at::Tensor>{u, y, dx, da, db};
  };
  const auto expected = run(key(5, 6)), actual = run(key_of(device_words));
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(same_bits(actual[i], expected[i])) << i;
}

struct HeadLoss {
  double loss;
  at::Tensor dx, dw;
};

HeadLoss run_head(const at::Tensor& x, const at::Tensor& w, const std::vector<int64_t>& targets) {
  HeadLoss r{0, unset(x.sizes(), x.scalar_type()), unset(w.sizes())};
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
    const HeadLoss expected = run_head(x.index_select(0, kept), w, {3, 100, 0, 7});
    const HeadLoss actual = run_head(x, w, targets);
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
