// When passes are run, captured and replayed, and what reaches them: on the stand-in of a device,
// with works that only copy what they are given. A replay runs none of the host's code, so the
// copies are made by the device.
#include "train/pass_engine.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "base/philox.h"
#include "dist/comm/collectives.h"
#include "model/model.h"
#include "ops/device/runtime.h"
#include "ops/dropout.h"
#include "support/memory_weights.h"
#include "support/tiny_llama.h"

namespace vax::train {
namespace {

// Says which units were asked for.
class CountingSink final : public model::GradientSink {
 public:
  model::UnitGradients& acquire(int unit) override {
    acquired.push_back(unit);
    return gradients_;
  }
  void release(int unit) override { released.push_back(unit); }

  std::vector<int> acquired, released;

 private:
  model::UnitGradients gradients_;
};

// `count` sequences of `length` tokens, all of them `id`; each has one label.
PackedBatch sequences(int64_t count, int64_t length, int64_t id) {
  PackedBatch batch{.offsets = {0}};
  for (int64_t s = 0; s < count; ++s) {
    for (int64_t t = 0; t < length; ++t) {
      batch.ids.push_back(id);
      batch.positions.push_back(static_cast<int32_t>(t));
      batch.rows.push_back(static_cast<int32_t>(s));
    }
    batch.offsets.push_back(static_cast<int32_t>(batch.num_tokens()));
    batch.label_positions.push_back(batch.num_tokens() - 1);
    batch.targets.push_back(id);
  }
  return batch;
}
PackedBatch sequence(int64_t length, int64_t id) { return sequences(1, length, id); }

// What a work has seen.
struct Seen {
  int64_t num_tokens, kind, first_id;
  double loss_scale;
  std::array<uint32_t, 4> keys;
};

// The same on the device.
class Report {
 public:
  void write(const PlacedStream& placed, int kind) const {
    const model::PlacedBatch& batch = placed.micro_batches.at(0);
    numbers_[0].fill_(batch.num_tokens());
    numbers_[1].fill_(kind);
    numbers_[2].copy_(device_numbers(batch.ids.data(), at::kLong, 1)[0]);
    scale_.copy_(placed.loss_scale);
    for (int64_t masks = 0; masks < 2; ++masks)
      keys_[masks].copy_(
          device_numbers(placed.dropout_keys.at(static_cast<size_t>(masks)), at::kInt, 2));
  }
  // And forgets it.
  Seen read() const {
    const at::Tensor numbers = numbers_.cpu(), keys = keys_.cpu();
    const auto* const n = numbers.const_data_ptr<int64_t>();
    Seen seen{n[0], n[1], n[2], scale_.item<double>(), {}};
    std::memcpy(seen.keys.data(), keys.const_data_ptr(), keys.nbytes());
    for (const at::Tensor& part : {numbers_, scale_, keys_}) part.zero_();
    return seen;
  }

 private:
  static at::TensorOptions on_device(at::ScalarType type) {
    return at::TensorOptions(type).device(ops::device::current());
  }
  static at::Tensor device_numbers(const void* memory, at::ScalarType type, int64_t count) {
    return at::from_blob(const_cast<void*>(memory), {count}, on_device(type));
  }
  at::Tensor numbers_ = at::zeros({3}, on_device(at::kLong));
  at::Tensor scale_ = at::zeros({}, on_device(at::kDouble));
  at::Tensor keys_ = at::zeros({2, 2}, on_device(at::kInt));
};

// The engine's own part of a step: no optimizer, no ranks.
class Passes final : public PassEngine {
 public:
  explicit Passes(const PassInputs& inputs) : PassEngine(inputs) {}
  using PassEngine::begin;
  using PassEngine::placed;
  const ShardVector& reduce() override { return none_; }
  double gradient_norm() override { return 0; }
  void clear_gradient() override {}
  ShardVector& vector(int) override { return none_; }
  void move(const ShardVector&, double) override {}
  void restore() override {}

 private:
  ShardVector none_;
};

class PassEngineTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!ops::device::is_selected()) ops::device::select(0);
  }
  PassInputs inputs(bool use_graphs) {
    return {.update = {.model = *model_, .weights = weights_},
            .probe = {.model = *model_, .weights = weights_},
            .gradients = sink_,
            .world = *world_,
            .train = train_,
            .use_graphs = use_graphs};
  }
  static StepBatch one_stream(int64_t step, const PackedBatch& batch, int64_t label_tokens) {
    return {.step = step,
            .streams = {{.micro_batches = {&batch, 1}, .label_tokens = label_tokens}}};
  }
  void run(Passes& engine, int64_t step, const PackedBatch& batch, int64_t label_tokens,
           int kind = 0) {
    engine.begin(one_stream(step, batch, label_tokens));
    engine.passes(kind, [this, &engine, kind] { report_.write(engine.placed(0), kind); });
    seen_.push_back(report_.read());
  }
  std::vector<int64_t> kinds() const {
    std::vector<int64_t> kinds;
    for (const Seen& seen : seen_) kinds.push_back(seen.kind);
    return kinds;
  }

  std::unique_ptr<model::Model> model_ = model::make_model(
      testing::tiny_config(), testing::tiny_lora(), false, at::kFloat, ops::device::current());
  testing::MemoryWeights weights_{*model_, 1, 0.1};
  CountingSink sink_;
  std::unique_ptr<dist::Collectives> world_ = dist::make_self_collectives();
  TrainOptions train_{.seed = 9};
  Report report_;
  std::vector<Seen> seen_;
};

std::array<uint32_t, 4> keys_of(int64_t step) {
  std::array<uint32_t, 4> keys{};
  for (uint64_t pass = 0; pass < 2; ++pass) {
    const PhiloxKey key = philox_key(9, ops::dropout_stream(static_cast<uint64_t>(step), pass));
    keys[2 * pass] = key[0];
    keys[2 * pass + 1] = key[1];
  }
  return keys;
}

// A replay sees the batch, the scale and the keys of its own step, though the work was captured in
// another.
TEST_F(PassEngineTest, EveryStepSeesItsOwnNumbers) {
  for (const bool use_graphs : {false, true}) {
    Passes passes(inputs(use_graphs));
    seen_.clear();
    for (int64_t step = 1; step <= 5; ++step)
      run(passes, step, sequence(3 + step, 10 + step), 2 * step);
    ASSERT_EQ(seen_.size(), 5U);
    for (int64_t step = 1; step <= 5; ++step) {
      const Seen& seen = seen_[static_cast<size_t>(step - 1)];
      EXPECT_EQ(seen.first_id, 10 + step);
      EXPECT_EQ(seen.loss_scale, 1.0 / static_cast<double>(2 * step));
      EXPECT_EQ(seen.keys, keys_of(step));
      EXPECT_EQ(seen.num_tokens, use_graphs ? 128 : 3 + step);
    }
    EXPECT_EQ(passes.num_captured(), use_graphs ? 1 : 0);
  }
}

TEST_F(PassEngineTest, CapturesByExtentAndKindWhenTheyComeAgain) {
  Passes passes(inputs(true));
  const PackedBatch short_one = sequence(5, 1), long_one = sequences(10, 13, 2);
  run(passes, 1, short_one, 1);
  run(passes, 2, long_one, 1);
  run(passes, 3, short_one, 1, 1);
  EXPECT_EQ(passes.num_captured(), 0) << "the first of each runs as it is";
  run(passes, 4, long_one, 1);
  EXPECT_EQ(passes.num_captured(), 1);
  run(passes, 5, short_one, 1, 1);
  EXPECT_EQ(passes.num_captured(), 2);
  run(passes, 6, short_one, 1);
  EXPECT_EQ(passes.num_captured(), 3);
  run(passes, 7, short_one, 1, 1);
  EXPECT_EQ(passes.num_captured(), 3);
  EXPECT_EQ(kinds(), (std::vector<int64_t>{0, 0, 1, 0, 1, 0, 1}));
  const std::vector<int64_t> tokens = {128, 256, 128, 256, 128, 128, 128};
  for (size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(seen_[i].num_tokens, tokens[i]) << i;
}

// A replay asks for no gradient: somebody must say that they are there, or they would count as
// never written.
TEST_F(PassEngineTest, AReplayNotesEveryUnitsGradients) {
  std::vector<int> all;
  for (int unit = 0; unit < model_->num_units(); ++unit) all.push_back(unit);
  for (const bool weight_gradients : {true, false}) {
    Passes engine(inputs(true));
    const PackedBatch batch = sequence(4, 1);
    const auto run_pass = [&](int64_t step) {
      sink_.acquired.clear();
      sink_.released.clear();
      engine.begin(one_stream(step, batch, 1));
      engine.passes(0, [this, &engine, weight_gradients] {
        report_.write(engine.placed(0), 0);
        engine.pass({.count = 0}, {.weight_gradients = weight_gradients});
      });
    };
    run_pass(1);
    EXPECT_TRUE(sink_.acquired.empty()) << "a work that runs asks for itself";
    run_pass(2);  // captured, and replayed at once
    EXPECT_EQ(engine.num_captured(), 1);
    EXPECT_EQ(sink_.acquired, weight_gradients ? all : std::vector<int>());
    EXPECT_EQ(sink_.released, sink_.acquired);
  }
}

TEST_F(PassEngineTest, CapturesSoManyAndNoMore) {
  Passes passes(inputs(true));
  constexpr int kKinds = PassEngine::kMostGraphs + 2;
  for (int round = 0; round < 3; ++round)
    for (int kind = 0; kind < kKinds; ++kind) run(passes, 1, sequence(4, kind % 7), 1, kind);
  EXPECT_EQ(passes.num_captured(), PassEngine::kMostGraphs);
  ASSERT_EQ(seen_.size(), 3U * kKinds);
  for (size_t i = 0; i < seen_.size(); ++i)
    EXPECT_EQ(seen_[i].kind, static_cast<int64_t>(i) % kKinds) << "all of them ran";
}

// Every stream has its own scale and masks; the first has those of a step without others.
TEST_F(PassEngineTest, StreamsHaveTheirOwnNumbers) {
  const PackedBatch first = sequence(5, 1), second = sequence(7, 2);
  for (const bool use_graphs : {false, true}) {
    Passes engine(inputs(use_graphs));
    for (int64_t step = 1; step <= 3; ++step) {
      engine.begin({.step = step,
                    .streams = {{.micro_batches = {&first, 1}, .label_tokens = 2},
                                {.micro_batches = {&second, 1}, .label_tokens = 8}}});
      std::vector<Seen> seen;
      for (const int stream : {0, 1}) {
        engine.passes(stream, [&] { report_.write(engine.placed(stream), stream); });
        seen.push_back(report_.read());
      }
      EXPECT_EQ(seen[0].loss_scale, 0.5);
      EXPECT_EQ(seen[1].loss_scale, 0.125);
      EXPECT_EQ(seen[0].first_id, 1);
      EXPECT_EQ(seen[1].first_id, 2);
      EXPECT_EQ(seen[0].keys, keys_of(step));
      for (size_t word = 0; word < seen[1].keys.size(); ++word)
        EXPECT_NE(seen[1].keys[word], seen[0].keys[word]);
    }
  }
}

TEST_F(PassEngineTest, ChecksABatchBeforeItIsBroughtOver) {
  Passes passes(inputs(true));
  EXPECT_THROW(run(passes, 1, sequence(4, 1000), 1), std::logic_error);
  EXPECT_TRUE(seen_.empty());
}

}  // namespace
}  // namespace vax::train
