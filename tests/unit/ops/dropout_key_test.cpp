// The key words of dropout masks in device memory, which a captured sequence of launches reads anew
// each time.
#include <vector>

#include "base/philox.h"
#include "ops/dropout.h"
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

}  // namespace
}  // namespace vax::ops::test
