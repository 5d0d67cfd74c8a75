// Embedding against autograd, repeated ids among the tokens.
#include "ops/embedding.h"

#include <stdexcept>
#include <vector>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

TEST(EmbeddingTest, MatchesAutograd) {
  const OnDevice<int64_t> ids({3, 0, 3, 10, 3, 0});
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor w = random({11, 19}, 1, type), dx = random({6, 19}, 2);
    at::Tensor x = full({6, 19}, 7, at::kFloat);
    embedding_forward(ids, w, x);
    const at::Tensor w_ref = leaf(w);
    const at::Tensor x_ref = at::embedding(w_ref, ids.tensor());
    EXPECT_TRUE(same_bits(x, x_ref.detach().to(at::kFloat))) << "a lookup rounds nothing";
    x_ref.backward(dx.to(at::kDouble));
    at::Tensor dw = ones({11, 19});
    embedding_backward(dx, ids, dw);
    VAX_EXPECT_CLOSE(dw, w_ref.grad() + 1, kFloatTolerance);
    at::Tensor new_dw = unset({11, 19});
    embedding_backward(dx, ids, new_dw, false);
    VAX_EXPECT_CLOSE(new_dw, w_ref.grad(), kFloatTolerance);
  }
}

TEST(EmbeddingTest, GradientIsTheSameOnAnyThreads) {
  std::vector<int64_t> squares(400);
  for (size_t t = 0; t < squares.size(); ++t) squares[t] = static_cast<int64_t>(t * t % 7);
  const OnDevice<int64_t> ids(squares);
  const at::Tensor dx = random({400, 301}, 1);
  expect_same_on_any_threads([&] {
    at::Tensor dw = zeros({7, 301});
    embedding_backward(dx, ids, dw);
    return dw;
  });
}

// A column block of a wider matrix, and tables that a GPU reads by vectors.
TEST(EmbeddingTest, StridedRowsGiveTheSameBits) {
  const OnDevice<int64_t> ids({4, 1, 4, 0});
  const at::Tensor w = random({5, 32}, 1), dx = random({4, 32}, 2);
  at::Tensor x = empty({4, 32}), strided_x = strided_copy(x);
  embedding_forward(ids, w, x);
  embedding_forward(ids, strided_copy(w), strided_x);
  EXPECT_TRUE(same_bits(x, strided_x));
  at::Tensor dw = ones({5, 32}), strided_dw = strided_copy(dw);
  embedding_backward(dx, ids, dw);
  embedding_backward(strided_copy(dx), ids, strided_dw);
  EXPECT_TRUE(same_bits(dw, strided_dw));
}

TEST(EmbeddingTest, TakesNoTokens) {
  at::Tensor x = empty({0, 4}), dw = ones({3, 4});
  embedding_forward({}, ones({3, 4}), x);
  embedding_backward(x, {}, dw);
  EXPECT_TRUE(same_bits(dw, ones({3, 4})));
  at::Tensor new_dw = unset({3, 4});
  embedding_backward(x, {}, new_dw, false);
  EXPECT_TRUE(same_bits(new_dw, zeros({3, 4})));
}

TEST(EmbeddingTest, RefusesIdsOutsideTheVocabulary) {
  at::Tensor x = empty({1, 4}), w = ones({3, 4});
  for (const int64_t id : {int64_t{-1}, int64_t{3}}) {
    const std::vector<int64_t> ids = {id};
    EXPECT_THROW(embedding_forward(ids, w, x), std::logic_error);
    EXPECT_THROW(embedding_backward(x, ids, w), std::logic_error);
  }
}

}  // namespace
}  // namespace vax::ops::test
