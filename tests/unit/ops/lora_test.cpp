// The LoRA branch against autograd, with the mask that ops::dropout gives.
#include "ops/lora.h"

#include <stdexcept>
#include <vector>

#include "ops_test.h"

namespace vax::ops::test {
namespace {

constexpr double kScale = 0.5;

struct Case {
  int64_t tokens, inputs, outputs, rank;
  double p;
  at::ScalarType type;
};

// Inputs of one case, and what the operator makes of them.
struct Problem {
  std::vector<int32_t> rows, positions;
  mutable DeviceCopies copies;
  at::Tensor x, a, b, y_before, dy, dx_before;

  explicit Problem(const Case& c)
      : rows(static_cast<size_t>(c.tokens)),
        positions(rows.size()),
        x(random({c.tokens, c.inputs}, 1, c.type)),
        a(random({c.rank, c.inputs}, 2)),
        b(random({c.outputs, c.rank}, 3)),
        y_before(random({c.tokens, c.outputs}, 4, c.type)),
        dy(random({c.tokens, c.outputs}, 5, c.type)),
        dx_before(random({c.tokens, c.inputs}, 6, c.type)) {
    for (size_t t = 0; t < rows.size(); ++t) {
      rows[t] = static_cast<int32_t>(t / 7);
      positions[t] = static_cast<int32_t>(t % 7);
    }
  }

  DropoutKey key(double p) const {
    return {.p = p,
            .seed = 5,
            .stream = 6,
            .site = 7,
            .rows = copies.of(rows),
            .positions = copies.of(positions)};
  }

  struct Result {
    at::Tensor u, y, dx, da, db;
  };
  // Writes da and db without reading them.
  Result run_writing(double p) const {
    Result r = run(p, false);
    r.dx = dx_before.clone();
    r.da = unset(a.sizes());
    r.db = unset(b.sizes());
    lora_backward(strided_copy(dy), x, r.u, a, b, kScale, key(p), r.dx, r.da, r.db, false);
    return r;
  }
  Result run(double p, bool weights = true) const {
    Result r{empty({x.size(0), a.size(0)}), strided_copy(y_before), dx_before.clone(), {}, {}};
    if (weights) {
      r.da = at::ones_like(a);
      r.db = at::ones_like(b);
    }
    lora_forward(x, a, b, kScale, key(p), r.u, r.y);
    lora_backward(strided_copy(dy), weights ? x : at::Tensor(), weights ? r.u : at::Tensor(), a, b,
                  kScale, key(p), r.dx, r.da, r.db);
    return r;
  }
};

class LoraTest : public testing::TestWithParam<Case> {};

TEST_P(LoraTest, MatchesAutogradWithTheMaskOfDropout) {
  const Case& c = GetParam();
  const Problem problem(c);
  at::Tensor mask = ones({c.tokens, c.inputs});
  dropout(mask, problem.key(c.p), mask);
  const at::Tensor x = leaf(problem.x), a = leaf(problem.a), b = leaf(problem.b);
  const at::Tensor u = at::mm(x * mask.to(at::kDouble), a.t());
  const at::Tensor y = problem.y_before.to(at::kDouble) + kScale * at::mm(u, b.t());
  y.backward(problem.dy.to(at::kDouble));

  const Problem::Result actual = problem.run(c.p);
  VAX_EXPECT_CLOSE(actual.u, u, kFloatTolerance);
  VAX_EXPECT_CLOSE(actual.y, y, tolerance(c.type));
  VAX_EXPECT_CLOSE(actual.dx, problem.dx_before.to(at::kDouble) + x.grad(), tolerance(c.type));
  VAX_EXPECT_CLOSE(actual.da, a.grad() + 1, kFloatTolerance);
  VAX_EXPECT_CLOSE(actual.db, b.grad() + 1, kFloatTolerance);
  const Problem::Result written = problem.run_writing(c.p);
  VAX_EXPECT_CLOSE(written.da, a.grad(), kFloatTolerance);
  VAX_EXPECT_CLOSE(written.db, b.grad(), kFloatTolerance);
  EXPECT_TRUE(same_bits(written.dx, actual.dx));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, LoraTest,
    testing::Values(Case{1, 5, 3, 1, 0.0, at::kFloat}, Case{7, 37, 19, 3, 0.3, at::kFloat},
                    Case{7, 37, 19, 3, 0.0, at::kFloat},
                    // several sub-blocks and row blocks, none of them full
                    Case{150, 96, 33, 8, 0.1, at::kFloat}, Case{150, 96, 33, 8, 0.0, at::kFloat},
                    Case{33, 40, 96, 64, 0.5, at::kFloat}, Case{0, 8, 6, 4, 0.5, at::kFloat},
                    // long rows, more ranks than a GPU's kernels take at once
                    Case{9, 1100, 2056, 70, 0.3, at::kFloat},
                    Case{40, 2048, 1032, 16, 0.2, at::kBFloat16},
                    Case{21, 37, 19, 5, 0.3, at::kBFloat16},
                    Case{70, 64, 48, 8, 0.0, at::kBFloat16}));

TEST(LoraTest, WithoutWeightGradientsDxIsTheSame) {
  const Problem problem({70, 50, 30, 8, 0.2, at::kFloat});
  EXPECT_TRUE(same_bits(problem.run(0.2, true).dx, problem.run(0.2, false).dx));
}

TEST(LoraTest, LeavesTheNeighboursOfAColumnBlockAlone) {
  const Problem problem({20, 50, 30, 8, 0.2, at::kFloat});
  const at::Tensor y = problem.run(0.2).y;
  const at::Tensor wide = y.as_strided({20, 35}, {35, 1}, 0);
  EXPECT_TRUE((wide.narrow(1, 0, 2) == 77).all().item<bool>());
  EXPECT_TRUE((wide.narrow(1, 32, 3) == 77).all().item<bool>());
}

TEST(LoraTest, IsTheSameOnAnyThreads) {
  const Problem problem({300, 64, 48, 8, 0.1, at::kFloat});
  for (const auto member : {&Problem::Result::u, &Problem::Result::y, &Problem::Result::dx,
                            &Problem::Result::da, &Problem::Result::db}) {
    expect_same_on_any_threads([&] { return problem.run(0.1).*member; });
  }
}

TEST(LoraTest, RefusesShapesThatDoNotFit) {
  const Problem problem({4, 6, 5, 2, 0.0, at::kFloat});
  at::Tensor u = empty({4, 3}), y = empty({4, 5}), dx = empty({4, 6});
  at::Tensor da = zeros({2, 6}), none;
  EXPECT_THROW(lora_forward(problem.x, problem.a, problem.b, 1, {}, u, y), std::logic_error);
  EXPECT_THROW(lora_backward(problem.dy, problem.x, empty({4, 2}), problem.a, problem.b, 1, {}, dx,
                             da, none),
               std::logic_error)
      << "da without db";
}

}  // namespace
}  // namespace vax::ops::test
