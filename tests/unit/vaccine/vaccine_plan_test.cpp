// What a Vaccine step announces - the units that it acquires, what it keeps - against what it does,
// on one rank with weights that write down every acquire.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "data/packing.h"
#include "dist/comm/collectives.h"
#include "model/decoder/decoder.h"
#include "support/memory_weights.h"
#include "support/tiny_llama.h"
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

struct Kind {
  bool full = false, tied = false, own_probe = false;
  int num_micro_batches = 2;
};

class StepRun {
 public:
  explicit StepRun(const Kind& kind)
      : llama_(make_llama(kind, at::kFloat)),
        probe_(make_llama(kind, kind.own_probe ? at::kBFloat16 : at::kFloat)),
        own_probe_(kind.own_probe),
        weights_(llama_, 1, 0.2),
        probe_weights_(probe_, 1, 0.2),
        gradients_(llama_),
        update_source_(weights_, false, uses_),
        probe_source_(probe_weights_, true, uses_),
        dataset_(testing::tiny_dataset(llama_.spec(), 5)) {
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
    std::vector<UnitUse> acquired, announced;
    int64_t kept_bytes;
  };
  Done run(const VaccineOptions& options, const TrainOptions& train, int64_t step) {
    const train::PassModel update{.model = llama_, .weights = update_source_};
    const train::PassModel probe{.model = probe_, .weights = probe_source_};
    VaccineMethod method({.update = update,
                          .probe = own_probe_ ? probe : update,
                          .gradients = gradients_,
                          .world = *world_,
                          .train = train},
                         options);
    uses_.clear();
    Done done{.outcome = method.run(
                  {.step = step, .micro_batches = batches_, .label_tokens = num_labels_})};
    done.acquired = uses_;
    done.announced = method.unit_uses(step, batches_.size());
    done.kept_bytes = method.kept_bytes();
    return done;
  }
  train::MethodPlan plan(const VaccineOptions& options, const TrainOptions& train,
                         int64_t step) const {
    return vaccine_plan(options, train, llama_, own_probe_ ? &probe_ : nullptr, step,
                        batches_.size());
  }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t last_tokens() const { return batches_.back().num_tokens(); }

 private:
  static model::Decoder make_llama(const Kind& kind, at::ScalarType type) {
    return {testing::tiny_config(kind.tied), kind.full ? model::LoraSpec{} : testing::tiny_lora(),
            kind.full, type};
  }

  model::Decoder llama_, probe_;
  bool own_probe_;
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

// "0p 1p 2": a p for the probe's. Where pass 1 runs on the update's own weights a source cannot
// tell the passes apart.
std::string text_of(const std::vector<UnitUse>& uses, bool own_probe) {
  std::string text;
  for (const UnitUse& use : uses)
    text += std::to_string(use.unit) + (use.probe && own_probe ? "p " : " ");
  return text;
}

int64_t num_uses(const std::vector<UnitUse>& uses, bool probe) {
  return std::count_if(uses.begin(), uses.end(),
                       [probe](const UnitUse& use) { return use.probe == probe; });
}

TEST(VaccinePlan, AnnouncesWhatAStepAcquires) {
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
              const StepRun::Done done = run.run(options, train, step);
              EXPECT_EQ(text_of(done.acquired, own_probe), text_of(done.announced, own_probe));
              EXPECT_EQ(done.announced, run.plan(options, train, step).uses);
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
  const TrainOptions train{.recompute = Recompute::kPass2};
  const train::MethodPlan plan = run.plan({.interval = 2}, train, 2);
  EXPECT_EQ(plan.kept_bytes + plan.kept_bytes_per_token, 0);
  ASSERT_EQ(plan.passes.size(), 1U);
  EXPECT_FALSE(plan.passes[0].probe);
  EXPECT_TRUE(plan.passes[0].recompute);
}

TEST(VaccinePlan, NamesItsPasses) {
  const auto count = [](const train::MethodPlan& plan, const auto& condition) {
    return std::count_if(plan.passes.begin(), plan.passes.end(), condition);
  };
  const auto is_probe = [](const train::PassPlan& pass) { return pass.probe; };
  const auto has_gradients = [](const train::PassPlan& pass) { return pass.weight_gradients; };
  const auto recomputes = [](const train::PassPlan& pass) { return pass.recompute; };
  const StepRun run({.own_probe = true});
  // In the checked step the update's model runs a pass without weight gradients too.
  for (const auto& [check_interval, num_passes] :
       std::vector<std::pair<int64_t, size_t>>{{1, 3}, {0, 2}}) {
    const VaccineOptions options{.probe_check_interval = check_interval};
    const train::MethodPlan plan = run.plan(options, {.recompute = Recompute::kPass2}, 1);
    EXPECT_EQ(plan.passes.size(), num_passes);
    EXPECT_EQ(count(plan, is_probe), 1);
    EXPECT_EQ(count(plan, has_gradients), 1);
    EXPECT_EQ(count(plan, recomputes), 1);
    EXPECT_EQ(count(run.plan(options, {.recompute = Recompute::kAll}, 1), recomputes),
              static_cast<int64_t>(num_passes));
  }
}

TEST(VaccinePlan, KeepsWhatItSays) {
  const VaccineOptions token, some{.layers = {0, 2}}, shared{.direction = Direction::kShared};
  for (const bool own_probe : {false, true}) {
    StepRun run({.own_probe = own_probe});
    for (const VaccineOptions& options : {token, some, shared}) {
      const train::MethodPlan plan = run.plan(options, {}, 1);
      EXPECT_EQ(run.run(options, {}, 1).kept_bytes,
                plan.kept_bytes + plan.kept_bytes_per_token * run.num_tokens());
      EXPECT_GT(plan.kept_bytes + plan.kept_bytes_per_token, 0);
    }
  }
}

// One S a micro-batch: nothing is kept from one to the next.
TEST(VaccinePlan, OfTheMicroScopeKeepsOneMicroBatch) {
  StepRun run({.own_probe = false});
  const VaccineOptions micro{.norm_scope = NormScope::kMicro}, global;
  const train::MethodPlan plan = run.plan(micro, {}, 1);
  EXPECT_TRUE(plan.keeps_one_micro_batch);
  EXPECT_FALSE(run.plan(global, {}, 1).keeps_one_micro_batch);
  ASSERT_LT(run.last_tokens(), run.num_tokens());
  EXPECT_EQ(run.run(micro, {}, 1).kept_bytes, plan.kept_bytes_per_token * run.last_tokens());
}

// A bf16 probe of the tiny model finds the direction nearly, and says so when asked only.
TEST(VaccineMethod, MeasuresTheProbesCosine) {
  StepRun with_probe({.own_probe = true}), without({.own_probe = false});
  for (const Direction direction : {Direction::kToken, Direction::kShared}) {
    const VaccineOptions options{.direction = direction, .probe_check_interval = 3};
    const std::optional<double> cosine = with_probe.run(options, {}, 1).outcome.probe_cosine;
    ASSERT_TRUE(cosine.has_value());
    EXPECT_GT(*cosine, 0.99);      // 8 bits of mantissa through three layers
    EXPECT_LT(*cosine, 1 - 1e-9);  // it is another direction
    EXPECT_FALSE(with_probe.run(options, {}, 2).outcome.probe_cosine.has_value());
    EXPECT_TRUE(with_probe.run(options, {}, 4).outcome.probe_cosine.has_value());
    EXPECT_FALSE(without.run(options, {}, 1).outcome.probe_cosine.has_value());
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
    EXPECT_EQ(checked.layer_squares, unchecked.layer_squares);
  }
}

}  // namespace
}  // namespace vax::vaccine
