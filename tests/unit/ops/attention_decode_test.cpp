// Decoding from a cache against the packed forward.
#include <cmath>
#include <stdexcept>
#include <vector>

#include "ops/attention_decode.h"
#include "ops_test.h"

namespace vax::ops::test {
namespace {

struct Case {
  int64_t heads, kv_heads, dim;
  at::ScalarType type;
};

class AttentionDecodeTest : public testing::TestWithParam<Case> {};

// Decoding the last token of a sequence from the cache gives what the forward gives for it.
TEST_P(AttentionDecodeTest, MatchesTheForwardsLastTokens) {
  const auto [heads, kv_heads, dim, type] = GetParam();
  const AttentionShape shape{heads, kv_heads, dim, 1 / std::sqrt(static_cast<double>(dim))};
  const std::vector<int32_t> lengths = {1, 70, 9}, slots = {2, 0, 3}, offsets = {0, 1, 71, 80};
  const at::Tensor qkv = random({80, (heads + 2 * kv_heads) * dim}, 1, type);
  at::Tensor o = empty({80, heads * dim}, qkv.options()), lse = empty({80, heads});
  const OnDevice<int32_t> packed(offsets);
  attention_forward(qkv, shape, SequenceOffsets(packed.span(), 70), o, lse);

  // Positions beyond a sequence's length hold values that would show if they were read.
  at::Tensor k_cache = full({4, 75, kv_heads, dim}, 1e4, qkv.options());
  at::Tensor v_cache = k_cache.clone();
  std::vector<int64_t> last;
  for (size_t s = 0; s < lengths.size(); ++s) {
    const at::Tensor rows = qkv.narrow(0, offsets[s], lengths[s]);
    const auto fill = [&](const at::Tensor& cache, int64_t first) {
      cache[slots[s]]
          .narrow(0, 0, lengths[s])
          .copy_(rows.narrow(1, first * dim, kv_heads * dim).view({lengths[s], kv_heads, dim}));
    };
    fill(k_cache, heads);
    fill(v_cache, heads + kv_heads);
    last.push_back(offsets[s + 1] - 1);
  }
  const at::Tensor index = tensor_of(last);
  const at::Tensor q = qkv.narrow(1, 0, heads * dim).index_select(0, index);
  at::Tensor decoded = full({3, heads * dim}, 7, qkv.options());
  attention_decode(q, k_cache, v_cache, OnDevice(slots).span(), OnDevice(lengths).span(), shape,
                   decoded);
  VAX_EXPECT_CLOSE(decoded, o.index_select(0, index), tolerance(type));
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionDecodeTest,
                         testing::Values(Case{4, 4, 8, at::kFloat}, Case{6, 2, 5, at::kFloat},
                                         Case{8, 1, 64, at::kFloat},
                                         Case{4, 2, 16, at::kBFloat16}));

TEST(AttentionDecodeTest, ChecksSlotsAndLengths) {
  const AttentionShape shape{2, 1, 4, 0.5};
  const at::Tensor q = random({1, 8}, 1), cache = random({2, 6, 1, 4}, 2);
  at::Tensor o = empty({1, 8});
  const auto decode = [&](int32_t slot, int32_t length) {
    const std::vector<int32_t> slots = {slot}, lengths = {length};
    attention_decode(q, cache, cache, slots, lengths, shape, o);
  };
  EXPECT_THROW(decode(2, 1), std::logic_error);
  EXPECT_THROW(decode(-1, 1), std::logic_error);
  EXPECT_THROW(decode(0, 0), std::logic_error);
  EXPECT_THROW(decode(0, 7), std::logic_error);
}

TEST(AttentionDecodeTest, TakesNoTokens) {
  const AttentionShape shape{2, 1, 4, 0.5};
  const at::Tensor cache = random({2, 6, 1, 4}, 2);
  at::Tensor none = empty({0, 8});
  EXPECT_NO_THROW(attention_decode(none, cache, cache, {}, {}, shape, none));
}

}  // namespace
}  // namespace vax::ops::test
