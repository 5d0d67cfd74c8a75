// What is recorded of a Vaccine step - the units that it acquires, its passes, what it keeps -
// against what it does, on one rank with weights that write down every acquire.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "data/packing.h"
#include "dist/comm/collectives.h"
#include "model/decoder/decoder.h"
#include "support/memory_weights.h"
#include "support/tiny_llama.h"
#include "train/pass_engine.h"
#include "train/recording_engine.h"
#include "vaccine/vaccine_method.h"

namespace vax::vaccine {
namespace {

using train::UnitUse;

// Appends every acquire to a list that two sources share.
class RecordingWeights : public model::WeightSource {
 public:
  RecordingWeights(model::WeightSource& source, bool probe, std::vector<UnitUse>& uses)
      : source_(source), probe_(probe), uses_(uses) {}

  const model::UnitTensors& acquire(int unit) override {
    uses_.push_back({.unit = unit, .probe = probe_});
    return source_.acquire(unit);
  }
  void release(int unit) override { source_.release(unit); }

 private:
  model::WeightSource& source_;
  bool probe_;
  std::vector<UnitUse>& uses_;
};

// An engine on weights in memory, without ranks and without an optimizer.
class MemoryEngine final : public train::PassEngine {
 public:
  explicit MemoryEngine(const train::PassInputs& inputs) : PassEngine(inputs) {}
  train::StepOutcome run(train::Method& method, const train::StepBatch& batch) {
    begin(batch);
    return method.step(*this);
  }
  const train::ShardVector& reduce() override { return none_; }
  double gradient_norm() override { return 0; }
  void clear_gradient() override {}
  train::ShardVector& vector(int) override { return none_; }
  void move(const train::ShardVector&, double) override {}
  void restore() override {}

 private:
  train::ShardVector none_;
};

struct Kind {
  bool full = false, tied = false, own_probe = false;
  int num_micro_batches = 2;
};

class StepRun {
 public:
  explicit StepRun(const Kind& kind)
      : model_(make_model(kind, at::kFloat)),
        own_probe_(make_model(kind, kind.own_probe ? at::kBFloat16 : at::kFloat)),
        probe_(kind.own_probe ? *own_probe_ : *model_),
        weights_(*model_, 1, 0.2),
        probe_weights_(probe_, 1, 0.2),
        gradients_(*model_),
        update_source_(weights_, false, uses_),
        probe_source_(probe_weights_, true, uses_),
        dataset_(testing::tiny_dataset(model_->spec(), 5)) {
    std::vector<int64_t> rows(5);
    std::iota(rows.begin(), rows.end(), 0);
    const int64_t micro_batch = (5 + kind.num_micro_batches - 1) / kind.num_micro_batches;
    batches_ = data::pack_share(dataset_, rows, 0, 1, micro_batch);
    for (const PackedBatch& batch : batches_) {
      num_labels_ += batch.num_labels();
      num_tokens_ += batch.num_tokens();
    }
  }

  struct Done {
    train::StepOutcome outcome;
    std::vector<UnitUse> acquired;
    int64_t kept_bytes;
  };
  Done run(const VaccineOptions& options, const TrainOptions& train, int64_t step) {
    MemoryEngine engine({.update = {.model = *model_, .weights = update_source_},
                         .probe = {.model = probe_, .weights = probe_source_},
                         .gradients = gradients_,
                         .world = *world_,
                         .train = train});
    VaccineMethod method(options, context());
    uses_.clear();
    Done done{.outcome = engine.run(
                  method, {.step = step,
                           .streams = {{.micro_batches = batches_, .label_tokens = num_labels_}}})};
    done.acquired = uses_;
    done.kept_bytes = method.kept_bytes();
    return done;
  }
  train::Recording record(const VaccineOptions& options, int64_t step) const {
    VaccineMethod method(options, context());
    return train::RecordingEngine(*model_).record(method, step, {batches_.size()});
  }
  // What the recorded passes keep of the micro-batches of this step.
  int64_t kept_bytes(const train::Recording& recording) const {
    int64_t most = 0;
    for (const train::RecordedPass& pass : recording.passes) {
      if (!pass.keeps()) continue;
      int64_t tokens = 0;
      for (size_t i = 0; i < pass.micro_batches.count; ++i)
        tokens += batches_.at(pass.micro_batches.first + i).num_tokens();
      most = pass.kept_bytes + pass.kept_bytes_per_token * tokens;  // the one before is gone
    }
    return most;
  }

 private:
  static std::unique_ptr<model::Model> make_model(const Kind& kind, at::ScalarType type) {
    return model::make_model(testing::tiny_config(kind.tied),
                             kind.full ? model::LoraSpec{} : testing::tiny_lora(), kind.full, type);
  }
  train::MethodContext context() const {
    return {.model = *model_, .probe = probe_, .device = at::kCPU};
  }

  std::unique_ptr<model::Model> model_, own_probe_;
  const model::Model& probe_;
  testing::MemoryWeights weights_, probe_weights_;
  testing::MemoryGradients gradients_;
  std::vector<UnitUse> uses_;
  RecordingWeights update_source_, probe_source_;
  data::Dataset dataset_;
  std::vector<PackedBatch> batches_;
  int64_t num_labels_ = 0, num_tokens_ = 0;
  std::unique_ptr<dist::Collectives> world_ = dist::make_self_collectives();
};

constexpr int64_t kUnits = 5;  // of the tiny model

int64_t num_uses(const std::vector<UnitUse>& uses, bool probe) {
  return std::count_if(uses.begin(), uses.end(),
                       [probe](const UnitUse& use) { return use.probe == probe; });
}

TEST(VaccinePlan, RecordsWhatAStepAcquires) {
  for (const bool full : {false, true})
    for (const bool tied : {false, true})
      for (const bool own_probe : {false, true}) {
        StepRun run({.full = full, .tied = tied, .own_probe = own_probe});
        for (const NormScope scope : {NormScope::kGlobal, NormScope::kRank, NormScope::kMicro})
          for (const Direction direction : {Direction::kToken, Direction::kShared})
            for (const int64_t step : {1, 2, 3}) {
              const VaccineOptions options{.norm_scope = scope,
                                           .direction = direction,
                                           .interval = 2,
                                           .probe_check_interval = 3};
              SCOPED_TRACE(cat(step, " ", word_of(scope), " ", word_of(direction),
                               full ? " full" : " LoRA", tied ? " tied" : "",
                               own_probe ? " probe" : ""));
              const TrainOptions train{.recompute = step == 3 ? Recompute::kAll : Recompute::kNone};
              const train::Recording recording = run.record(options, step);
              ASSERT_EQ(recording.segments.size(), 1U);
              EXPECT_EQ(run.run(options, train, step).acquired, recording.segments[0]);
            }
      }
}

// Forward and backward of two micro-batches: the units of the chain, then the blocks again.
TEST(VaccinePlan, CountsPasses) {
  constexpr int64_t kPass = kUnits + 3;
  StepRun run({.own_probe = true});
  const VaccineOptions options{.interval = 2, .probe_check_interval = 2};
  const auto uses = [&](int64_t step, int64_t check_interval) {
    VaccineOptions changed = options;
    changed.probe_check_interval = check_interval;
    return run.run(changed, {}, step).acquired;
  };
  EXPECT_EQ(num_uses(uses(1, 2), true), 2 * kPass);
  EXPECT_EQ(num_uses(uses(1, 2), false), 4 * kPass);  // the exact direction, and the update
  EXPECT_EQ(num_uses(uses(1, 0), false), 2 * kPass);  // never checked
  EXPECT_EQ(num_uses(uses(2, 2), true), 0);           // one pass
  EXPECT_EQ(num_uses(uses(2, 2), false), 2 * kPass);
  EXPECT_EQ(num_uses(uses(3, 2), false), 4 * kPass);
  EXPECT_EQ(num_uses(uses(3, 4), false), 2 * kPass);  // two passes, not its turn
}

TEST(VaccinePlan, APlainStepIsThatOfSft) {
  const StepRun run({.own_probe = true});
  const train::Recording recording = run.record({.interval = 2}, 2);
  ASSERT_EQ(recording.passes.size(), 1U);
  EXPECT_FALSE(recording.passes[0].keeps());
  EXPECT_EQ(recording.passes[0].weights, train::PassWeights::kUpdate);
  EXPECT_TRUE(recording.passes[0].weight_gradients);
  EXPECT_EQ(recording.num_reductions, 1);
}

TEST(VaccinePlan, RecordsItsPasses) {
  const auto count = [](const train::Recording& recording, const auto& condition) {
    return std::ranges::count_if(recording.passes, condition);
  };
  const auto is_probe = [](const train::RecordedPass& pass) {
    return pass.weights == train::PassWeights::kProbe;
  };
  const auto has_gradients = [](const train::RecordedPass& pass) { return pass.weight_gradients; };
  const StepRun run({.own_probe = true});
  // In the checked step the update's model runs a pass without weight gradients too.
  for (const auto& [check_interval, num_passes] :
       std::vector<std::pair<int64_t, size_t>>{{1, 3}, {0, 2}}) {
    const train::Recording recording = run.record({.probe_check_interval = check_interval}, 1);
    EXPECT_EQ(recording.passes.size(), num_passes);
    EXPECT_EQ(count(recording, is_probe), 1);
    EXPECT_EQ(count(recording, has_gradients), 1);
  }
}

TEST(VaccinePlan, KeepsWhatItSays) {
  const VaccineOptions token, some{.layers = {0, 2}}, shared{.direction = Direction::kShared};
  for (const bool own_probe : {false, true}) {
    StepRun run({.own_probe = own_probe});
    for (const VaccineOptions& options : {token, some, shared}) {
      const int64_t kept = run.kept_bytes(run.record(options, 1));
      EXPECT_EQ(run.run(options, {}, 1).kept_bytes, kept);
      EXPECT_GT(kept, 0);
    }
  }
}

// One S a micro-batch: nothing is kept from one to the next.
TEST(VaccinePlan, OfTheMicroScopeKeepsOneMicroBatch) {
  StepRun run({.own_probe = false});
  const VaccineOptions micro{.norm_scope = NormScope::kMicro}, global;
  for (const train::RecordedPass& pass : run.record(micro, 1).passes)
    EXPECT_EQ(pass.micro_batches.count, 1U);
  for (const train::RecordedPass& pass : run.record(global, 1).passes)
    EXPECT_EQ(pass.micro_batches.count, 2U);
  const int64_t kept = run.kept_bytes(run.record(micro, 1));
  ASSERT_LT(kept, run.kept_bytes(run.record(global, 1)));
  EXPECT_EQ(run.run(micro, {}, 1).kept_bytes, kept);
}

std::optional<double> cosine_of(const StepRun::Done& done) { return done.outcome.numbers.at(2); }

// A bf16 probe of the tiny model finds the direction nearly, and says so when asked only.
TEST(VaccineMethod, MeasuresTheProbesCosine) {
  StepRun with_probe({.own_probe = true}), without({.own_probe = false});
  for (const Direction direction : {Direction::kToken, Direction::kShared}) {
    const VaccineOptions options{.direction = direction, .probe_check_interval = 3};
    const std::optional<double> cosine = cosine_of(with_probe.run(options, {}, 1));
    ASSERT_TRUE(cosine.has_value());
    EXPECT_GT(*cosine, 0.99);      // 8 bits of mantissa through three layers
    EXPECT_LT(*cosine, 1 - 1e-9);  // it is another direction
    EXPECT_FALSE(cosine_of(with_probe.run(options, {}, 2)).has_value());
    EXPECT_TRUE(cosine_of(with_probe.run(options, {}, 4)).has_value());
    EXPECT_FALSE(cosine_of(without.run(options, {}, 1)).has_value());
  }
}

// The check reads and never writes: losses are the same bits with and without it.
TEST(VaccineMethod, TheCheckChangesNothing) {
  for (const NormScope scope : {NormScope::kGlobal, NormScope::kMicro}) {
    StepRun run({.own_probe = true});
    const train::StepOutcome checked =
        run.run({.norm_scope = scope, .probe_check_interval = 1}, {}, 1).outcome;
    const train::StepOutcome unchecked =
        run.run({.norm_scope = scope, .probe_check_interval = 0}, {}, 1).outcome;
    EXPECT_EQ(checked.loss, unchecked.loss);
    EXPECT_EQ(checked.clean_loss, unchecked.clean_loss);
    EXPECT_EQ(checked.layers, unchecked.layers);
  }
}

}  // namespace
}  // namespace vax::vaccine
