// Packed causal attention against autograd of the textbook formula.
#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

struct Case {
  int64_t heads, kv_heads, dim;
  std::vector<int32_t> lengths;
  at::ScalarType type;
  double spread = 1;  // factor on q: large ones make the softmax saturate
};

struct Problem {
  AttentionShape shape;
  std::vector<int32_t> offsets = {0};
  at::Tensor qkv, d_o;

  explicit Problem(const Case& c)
      : shape{c.heads, c.kv_heads, c.dim, 1 / std::sqrt(static_cast<double>(c.dim))} {
    for (const int32_t length : c.lengths) offsets.push_back(offsets.back() + length);
    const int64_t tokens = offsets.back();
    qkv = random({tokens, (c.heads + 2 * c.kv_heads) * c.dim}, 1);
    qkv.narrow(1, 0, c.heads * c.dim).mul_(c.spread);
    qkv = qkv.to(c.type);
    d_o = random({tokens, c.heads * c.dim}, 2, c.type);
  }

  struct Result {
    at::Tensor o, lse, dqkv;
  };
  int64_t longest() const {
    int64_t length = 0;
    for (size_t s = 0; s + 1 < offsets.size(); ++s) {
      length = std::max<int64_t>(length, offsets[s + 1] - offsets[s]);
    }
    return length;
  }
  Result run() const {
    const OnDevice<int32_t> at(offsets);
    const SequenceOffsets sequences(at.span(), longest());
    Result r{at::full_like(d_o, 7), full({d_o.size(0), shape.num_heads}, 7, at::kFloat),
             at::full_like(qkv, 7)};
    attention_forward(qkv, shape, sequences, r.o, r.lse);
    attention_backward(d_o, qkv, r.o, r.lse, shape, sequences, r.dqkv);
    return r;
  }
};

// The textbook formula, sequence by sequence, in double.
Problem::Result oracle(const Problem& problem) {
  const auto [heads, kv_heads, dim, scale] = problem.shape;
  const at::Tensor qkv = leaf(problem.qkv);
  std::vector<at::Tensor> outputs, log_sums;
  for (size_t s = 0; s + 1 < problem.offsets.size(); ++s) {
    const int64_t length = problem.offsets[s + 1] - problem.offsets[s];
    if (length == 0) continue;
    const at::Tensor rows = qkv.narrow(0, problem.offsets[s], length);
    const auto head_rows = [&](int64_t first, int64_t count) {  // [count, L, K]
      return rows.narrow(1, first * dim, count * dim).view({length, count, dim}).transpose(0, 1);
    };
    const at::Tensor q = head_rows(0, heads);
    const at::Tensor k = head_rows(heads, kv_heads).repeat_interleave(heads / kv_heads, 0);
    const at::Tensor v =
        head_rows(heads + kv_heads, kv_heads).repeat_interleave(heads / kv_heads, 0);
    const at::Tensor future = ones({length, length}, at::kBool).triu(1);
    const at::Tensor scores = (at::matmul(q, k.transpose(1, 2)) * scale)
                                  .masked_fill(future, -std::numeric_limits<double>::infinity());
    log_sums.push_back(at::logsumexp(scores, 2).t());
    outputs.push_back(
        at::matmul(at::softmax(scores, 2), v).transpose(0, 1).reshape({length, heads * dim}));
  }
  const at::Tensor o = at::cat(outputs);
  o.backward(problem.d_o.to(at::kDouble));
  return {o, at::cat(log_sums), qkv.grad()};
}

class AttentionTest : public testing::TestWithParam<Case> {};

TEST_P(AttentionTest, MatchesAutograd) {
  const Problem problem(GetParam());
  const Problem::Result expected = oracle(problem), actual = problem.run();
  const at::ScalarType type = GetParam().type;
  VAX_EXPECT_CLOSE(actual.o, expected.o, tolerance(type));
  // In which order lse holds its elements is the operator's own affair.
  const auto sorted = [](const at::Tensor& x) { return std::get<0>(at::sort(x.flatten())); };
  VAX_EXPECT_CLOSE(sorted(actual.lse), sorted(expected.lse), kFloatTolerance);
  // bf16: besides its own rounding, the gradient of q and k sees that of o through delta.
  VAX_EXPECT_CLOSE(actual.dqkv, expected.dqkv, type == at::kFloat ? kFloatTolerance : 1e-2);
}

// Lengths: 1, empty, below, at and beyond the block of 64 query rows, also by several blocks.
INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionTest,
    testing::Values(Case{1, 1, 2, {1}, at::kFloat}, Case{4, 4, 8, {5, 1, 70}, at::kFloat},
                    Case{4, 2, 5, {64, 0, 3}, at::kFloat}, Case{4, 1, 16, {65, 63}, at::kFloat},
                    Case{2, 1, 33, {200}, at::kFloat}, Case{2, 2, 8, {40, 90}, at::kFloat, 30.0},
                    Case{4, 2, 8, {5, 1, 70}, at::kBFloat16},
                    Case{4, 2, 12, {64, 0, 3}, at::kBFloat16},
                    Case{4, 2, 16, {1, 1, 1}, at::kBFloat16},
                    Case{2, 2, 64, {130}, at::kBFloat16}));

TEST(AttentionTest, TakesNoTokens) {
  for (const std::vector<int32_t>& lengths : {std::vector<int32_t>{}, std::vector<int32_t>{0, 0}}) {
    const Problem::Result result = Problem({4, 2, 8, lengths, at::kFloat}).run();
    EXPECT_EQ(result.dqkv.numel(), 0);
  }
}

// Rows of wider matrices, which begin where no vector of 16 bytes does.
TEST(AttentionTest, RowsMayBeginAnywhere) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Problem problem({4, 2, 8, {30, 7}, type});
    const Problem::Result expected = problem.run();
    const OnDevice<int32_t> offsets(problem.offsets);
    const SequenceOffsets sequences(offsets.span(), problem.longest());
    const at::Tensor qkv = strided_copy(problem.qkv);
    at::Tensor o = strided_copy(expected.o * 0), dqkv = strided_copy(expected.dqkv * 0);
    at::Tensor lse = unset({37, 4});
    attention_forward(qkv, problem.shape, sequences, o, lse);
    attention_backward(strided_copy(problem.d_o), qkv, o, lse, problem.shape, sequences, dqkv);
    VAX_EXPECT_CLOSE(o, expected.o, tolerance(type));
    VAX_EXPECT_CLOSE(dqkv, expected.dqkv, type == at::kFloat ? kFloatTolerance : 1e-2);
    const at::Tensor whole = dqkv.as_strided({37, 69}, {69, 1}, 0);
    EXPECT_TRUE((whole.narrow(1, 0, 2) == 77).all().item<bool>());
    EXPECT_TRUE((whole.narrow(1, 66, 3) == 77).all().item<bool>());
  }
}

TEST(AttentionTest, SequencesDoNotSeeEachOther) {
  const Problem both({2, 2, 8, {30, 70}, at::kFloat}), alone({2, 2, 8, {30}, at::kFloat});
  Problem first = alone;
  first.qkv = both.qkv.narrow(0, 0, 30).contiguous();
  first.d_o = both.d_o.narrow(0, 0, 30).contiguous();
  EXPECT_TRUE(same_bits(both.run().dqkv.narrow(0, 0, 30), first.run().dqkv));
}

TEST(AttentionTest, IsTheSameOnAnyThreads) {
  const Problem problem({4, 2, 16, {100, 3, 77, 20, 65}, at::kFloat});
  expect_same_on_any_threads([&] { return problem.run().o; });
  expect_same_on_any_threads([&] { return problem.run().dqkv; });
}

TEST(AttentionTest, RefusesBadOffsets) {
  Problem problem({4, 2, 8, {5, 6}, at::kFloat});
  problem.offsets = {0, 5, 12};
  EXPECT_THROW(problem.run(), std::logic_error) << "one token more than there are";
  problem.offsets = {0, 8, 5, 11};
  EXPECT_THROW(problem.run(), std::logic_error) << "decreasing";
}

TEST(AttentionTest, RefusesBadShapes) {
  Problem problem({4, 2, 8, {5, 6}, at::kFloat});
  problem.shape.num_kv_heads = 3;
  EXPECT_THROW(problem.run(), std::logic_error) << "4 query heads on 3 key heads";
}

}  // namespace
}  // namespace vax::ops::test
