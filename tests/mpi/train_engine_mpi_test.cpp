// The verbs of the engine that the built-in methods do not use, on 1 to 4 ranks: weights that are
// moved for a while, several gradients in a step, streams of their own, factors.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>

#include "support/step_run.h"

namespace vax::train {
namespace {

using testing::Rows;
using testing::StepRun;

// A method whose step is a function of the engine.
class Scripted final : public Method {
 public:
  explicit Scripted(const std::function<void(Engine&)>& script) : script_(script) {}
  StepOutcome step(Engine& engine) override {
    script_(engine);
    return {};
  }

 private:
  std::function<void(Engine&)> script_;
};

MethodMaker scripted(MethodDeclaration declaration, std::function<void(Engine&)> script) {
  return {.declaration = std::move(declaration),
          .make = [script](const MethodContext&) { return std::make_unique<Scripted>(script); }};
}

void pass(Engine& engine, int kind, int stream = 0, double factor = 1) {
  engine.passes(kind, [&] { engine.pass(engine.all(stream), {.factor = factor}); });
}

std::vector<at::Tensor> weights_of(StepRun& run) {
  std::vector<at::Tensor> copies;
  dist::ShardedUnits& units = run.state().trainable().units();
  for (int unit = 0; unit < units.num_units(); ++unit) copies.push_back(units.shard(unit).clone());
  return copies;
}

// Of the units there are some that every rank has a part of; small ones are padding on some ranks.
constexpr size_t kLargeUnit = 1;

void expect_equal(const std::vector<at::Tensor>& actual, const std::vector<at::Tensor>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t unit = 0; unit < actual.size(); ++unit)
    EXPECT_TRUE(at::equal(actual[unit], expected[unit])) << "unit " << unit;
}

// The parameter says: full parameters and a tied head, else LoRA.
class EngineTest : public ::testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() { directory_ = testing::step_models(); }
  static void TearDownTestSuite() { directory_.reset(); }

  std::unique_ptr<StepRun> make_run(const ShardOptions& shard = {}) {
    ModelRequest request = testing::step_request(*directory_, GetParam());
    request.shard = shard;
    return std::make_unique<StepRun>(request,
                                     make_mesh(world_, world_.split_by_node(), shard, GetParam()));
  }
  std::vector<PackedBatch> share(const Rows& rows) const {
    return rows.share(world_.rank(), world_.size(), 2);
  }

  dist::Communicator world_ = dist::Communicator::world();
  static inline std::unique_ptr<testing::SharedDirectory> directory_;
};

TEST_P(EngineTest, WeightsThatWereMovedComeBackBitForBit) {
  const Rows rows(6);
  const std::vector<PackedBatch> own = share(rows);
  const StepBatch batch = testing::one_stream(1, own, rows.label_tokens);
  for (const ShardOptions& shard :
       {ShardOptions{}, ShardOptions{.frozen = Placement::kNode, .trainable = Placement::kNode},
        ShardOptions{.trainable = Placement::kReplicate}, ShardOptions{.residency_gib = 1}}) {
    const std::unique_ptr<StepRun> run = make_run(shard);
    const std::vector<at::Tensor> weights = weights_of(*run);
    run->run_sft(batch);
    const std::vector<at::Tensor> expected = run->copied_gradients();
    std::vector<at::Tensor> moved;
    run->run(scripted({.moves_weights = true},
                      [&](Engine& engine) {
                        pass(engine, 0);
                        engine.move(engine.reduce(), 0.37);
                        engine.clear_gradient();
                        pass(engine, 1);
                        engine.reduce();
                        if (&engine == &run->engine()) moved = run->copied_gradients();
                        engine.restore();
                        engine.clear_gradient();
                        pass(engine, 2);
                      }),
             batch);
    expect_equal(weights_of(*run), weights);
    expect_equal(run->copied_gradients(), expected);
    EXPECT_FALSE(at::equal(moved.at(kLargeUnit), expected.at(kLargeUnit)));
  }
}

// What a pass finds there is what an engine finds whose weights are changed for good.
TEST_P(EngineTest, PassesSeeTheWeightsWhereTheyHaveBeenMoved) {
  constexpr double kFactor = -0.21;
  const Rows rows(5);
  const std::vector<PackedBatch> own = share(rows);
  const StepBatch batch = testing::one_stream(1, own, rows.label_tokens);
  const std::unique_ptr<StepRun> run = make_run(), changed = make_run();
  run->run(scripted({.vectors = {{.name = "kept"}}, .moves_weights = true},
                    [](Engine& engine) {
                      pass(engine, 0);
                      const ShardVector& gradient = engine.reduce();
                      ShardVector& kept = engine.vector(0);
                      for (size_t i = 0; i < kept.size(); ++i) kept[i].copy_(gradient[i]);
                      engine.clear_gradient();
                      engine.move(kept, kFactor);
                      pass(engine, 1);
                      engine.reduce();
                      engine.restore();
                    }),
           batch);
  changed->run_sft(batch);
  const std::vector<at::Tensor> direction = changed->copied_gradients();
  dist::ShardedUnits& units = changed->state().trainable().units();
  units.begin_update();
  for (int unit = 0; unit < units.num_units(); ++unit)
    units.shard(unit).add_(direction[static_cast<size_t>(unit)], kFactor);
  units.refresh();
  changed->run_sft(batch);
  expect_equal(run->copied_gradients(), changed->copied_gradients());
}

TEST_P(EngineTest, StreamsAddUpWithTheirFactors) {
  const Rows first(6), second(3);
  const std::vector<PackedBatch> own = share(first), other = share(second);
  const std::unique_ptr<StepRun> run = make_run();
  run->run(scripted({.streams = {{.role = "harmful"}}},
                    [](Engine& engine) {
                      pass(engine, 0);
                      pass(engine, 1, 1, 0.5);
                    }),
           {.step = 1,
            .streams = {{.micro_batches = own, .label_tokens = first.label_tokens},
                        {.micro_batches = other, .label_tokens = second.label_tokens}}});
  const std::vector<at::Tensor> sum = run->copied_gradients();
  const auto alone = [&](int stream) {
    run->run(scripted({.streams = {{.role = "harmful"}}},
                      [stream](Engine& engine) { pass(engine, 0, stream); }),
             {.step = 1,
              .streams = {{.micro_batches = own, .label_tokens = first.label_tokens},
                          {.micro_batches = other, .label_tokens = second.label_tokens}}});
    return run->copied_gradients();
  };
  const std::vector<at::Tensor> of_first = alone(0), of_second = alone(1);
  for (size_t unit = 0; unit < sum.size(); ++unit) {
    const at::Tensor expected = of_first[unit] + 0.5 * of_second[unit];
    // fp32 sums in another order.
    EXPECT_TRUE(at::allclose(sum[unit], expected, 0, 1e-5 * expected.abs().max().item<double>()))
        << "unit " << unit;
  }
  EXPECT_FALSE(at::equal(of_first.at(kLargeUnit), of_second.at(kLargeUnit)));
}

TEST_P(EngineTest, RefusesWhatWasNotDeclared) {
  const Rows rows(3);
  const std::vector<PackedBatch> own = share(rows);
  const StepBatch batch = testing::one_stream(1, own, rows.label_tokens);
  const auto run_script = [&](const MethodDeclaration& declaration,
                              const std::function<void(Engine&)>& script) {
    const std::unique_ptr<StepRun> run = make_run();
    const auto only_there = [&](Engine& engine) {
      if (&engine == &run->engine()) script(engine);
    };
    run->run(scripted(declaration, only_there), batch);
  };
  EXPECT_THROW(run_script({}, [](Engine& engine) { engine.move(engine.reduce(), 1); }),
               std::logic_error);
  EXPECT_THROW(run_script({.moves_weights = true}, [](Engine& engine) { engine.restore(); }),
               std::logic_error);
  EXPECT_THROW(run_script({}, [](Engine& engine) { engine.pass(engine.all(), {}); }),
               std::logic_error);
}

INSTANTIATE_TEST_SUITE_P(Trained, EngineTest, ::testing::Bool(), [](const auto& trained) {
  return std::string(trained.param ? "TiedBase" : "Lora");
});

}  // namespace
}  // namespace vax::train
