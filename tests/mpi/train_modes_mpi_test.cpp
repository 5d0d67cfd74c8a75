// Where weights lie, what is computed again and in which precision pass 1 runs must not change what
// a step computes: every placement (with several nodes, played by parts of the world),
// recomputation and probe against one rank alone with everything whole. And what the ranks send
// must be what the plan says.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/step_run.h"

namespace vax::train {
namespace {

using testing::one_stream;
using testing::Rows;
using testing::StepRun;

constexpr int64_t kStep = 3;  // no step of a probe's check
const VaccineOptions kVaccine = {.rho = 1.5};

struct Precision {
  ModelDtype dtype;
  ProbeDtype probe;
  // Largest difference of a gradient to the one-rank run, relative to the unit's largest element.
  // fp32: sums in another order, a few roundings deep. bf16: inputs of GEMMs are rounded to 2^-9,
  // and a sum in another order rounds some of them to the neighbour; a probe in bf16 only moves the
  // perturbation by as much, a part of rho.
  double bound;
};
constexpr Precision kPrecisions[] = {{ModelDtype::kFp32, ProbeDtype::kSame, 1e-5},
                                     {ModelDtype::kFp32, ProbeDtype::kBf16, 4e-3},
                                     {ModelDtype::kBf16, ProbeDtype::kSame, 2e-2}};

constexpr Placement kPlacements[] = {Placement::kFull, Placement::kNode, Placement::kReplicate};

struct Mode {
  bool full_parameters;  // and a tied head, else LoRA
  Precision precision;
};

std::vector<Mode> modes() {
  std::vector<Mode> all;
  for (const bool full : {false, true})
    for (const Precision& precision : kPrecisions) all.push_back({full, precision});
  return all;
}

class ModesTest : public ::testing::TestWithParam<Mode> {
 protected:
  static void SetUpTestSuite() { directory_ = testing::step_models(); }
  static void TearDownTestSuite() { directory_.reset(); }

  static ModelRequest request(const ShardOptions& shard = {}) {
    ModelRequest request = testing::step_request(*directory_, GetParam().full_parameters);
    request.shard = shard;
    request.probe_dtype = GetParam().precision.probe;
    request.model.dtype = GetParam().precision.dtype;
    return request;
  }
  // Two ranks a node where that divides the world: with four ranks, two nodes.
  int node_size() const { return world_.size() % 2 == 0 ? 2 : world_.size(); }
  std::unique_ptr<StepRun> make_run(const ShardOptions& shard,
                                    Recompute recompute = Recompute::kNone) {
    const dist::Communicator node = world_.split(world_.rank() / node_size());
    return std::make_unique<StepRun>(request(shard),
                                     make_mesh(world_, node, shard, GetParam().full_parameters),
                                     EngineSettings{.train = {.recompute = recompute}});
  }
  std::unique_ptr<StepRun> make_alone() {
    return std::make_unique<StepRun>(request(), testing::make_self_mesh());
  }

  // Every placement of both planes; group_size cuts the full ones in two where it can.
  std::vector<ShardOptions> placements() const {
    std::vector<ShardOptions> all;
    for (const Placement frozen : kPlacements)
      for (const Placement trainable : kPlacements)
        all.push_back({.frozen = frozen, .trainable = trainable});
    if (node_size() < world_.size()) {
      all.push_back({.group_size = node_size()});
      all.push_back({.trainable = Placement::kReplicate, .group_size = node_size()});
    }
    all.push_back({.residency_gib = 1e-5, .prefetch = 0});
    all.push_back({.residency_gib = 1, .prefetch = 3});
    return all;
  }
  static std::string text(const ShardOptions& shard) {
    return cat("frozen ", word_of(shard.frozen), ", trainable ", word_of(shard.trainable),
               ", group ", shard.group_size.value_or(0), ", residency ", shard.residency_gib,
               ", prefetch ", shard.prefetch);
  }

  static void expect_shards_of(StepRun& run, StepRun& whole) {
    testing::expect_shards_of(run, whole.copied_gradients(), GetParam().precision.bound);
  }
  std::vector<PackedBatch> own_share(const Rows& rows, std::optional<int64_t> micro_batch) const {
    return rows.share(world_.rank(), world_.size(), micro_batch);
  }

  dist::Communicator world_ = dist::Communicator::world();
  static inline std::unique_ptr<testing::SharedDirectory> directory_;
};

TEST_P(ModesTest, EveryPlacementIsOneRankWithTheWhole) {
  const Rows rows(7);
  const std::unique_ptr<StepRun> alone = make_alone();
  const std::vector<PackedBatch> all = rows.share(0, 1, std::nullopt);
  const StepOutcome expected =
      alone->run_vaccine(kVaccine, one_stream(kStep, all, rows.label_tokens));
  // bf16 also changes the loss by as much as a rounding of the last hidden states.
  const double loss_bound = GetParam().precision.dtype == ModelDtype::kBf16 ? 2e-3 : 3e-6;
  for (const ShardOptions& shard : placements()) {
    SCOPED_TRACE(text(shard));
    const std::unique_ptr<StepRun> run = make_run(shard);
    const std::vector<PackedBatch> own = own_share(rows, 1);
    // The second time units are where the first has left them.
    for (int repeat = 0; repeat < 2; ++repeat) {
      const StepOutcome outcome =
          run->run_vaccine(kVaccine, one_stream(kStep, own, rows.label_tokens));
      EXPECT_NEAR(outcome.clean_loss, expected.clean_loss, loss_bound * expected.clean_loss);
      expect_shards_of(*run, *alone);
      run->touch_weights();
    }
  }
}

// The same operations on the same numbers: not one bit may differ.
TEST_P(ModesTest, RecomputationChangesNoBit) {
  const Rows rows(5);
  const std::vector<PackedBatch> own = own_share(rows, 2);
  const StepBatch batch = one_stream(kStep, own, rows.label_tokens);
  const std::unique_ptr<StepRun> run = make_run({});
  const StepOutcome kept = run->run_vaccine(kVaccine, batch);
  const std::vector<at::Tensor> gradients = run->copied_gradients();
  for (const Recompute recompute : {Recompute::kPass2, Recompute::kAll}) {
    const std::unique_ptr<StepRun> again = make_run({}, recompute);
    const StepOutcome outcome = again->run_vaccine(kVaccine, batch);
    EXPECT_EQ(outcome.loss, kept.loss) << word_of(recompute);
    for (int unit = 0; unit < run->num_units(); ++unit)
      EXPECT_TRUE(at::equal(again->gradient(unit), gradients[static_cast<size_t>(unit)])) << unit;
  }
}

TEST_P(ModesTest, RhoZeroIsSftBitForBitInEveryPlacement) {
  const Rows rows(5);
  const std::vector<PackedBatch> own = own_share(rows, 1);
  const StepBatch batch = one_stream(kStep, own, rows.label_tokens);
  for (const ShardOptions& shard : placements()) {
    SCOPED_TRACE(text(shard));
    const std::unique_ptr<StepRun> run = make_run(shard);
    const StepOutcome sft = run->run_sft(batch);
    const std::vector<at::Tensor> gradients = run->copied_gradients();
    const StepOutcome vaccine = run->run_vaccine({.rho = 0}, batch);
    EXPECT_EQ(vaccine.loss, sft.loss);
    for (int unit = 0; unit < run->num_units(); ++unit)
      EXPECT_TRUE(at::equal(run->gradient(unit), gradients[static_cast<size_t>(unit)])) << unit;
  }
}

// Accumulation: one row at a time is all rows at once, up to the order of sums.
TEST_P(ModesTest, MicroBatchesAddUp) {
  const Rows rows(6);
  const std::unique_ptr<StepRun> one = make_run({}), many = make_run({});
  const std::vector<PackedBatch> whole = own_share(rows, std::nullopt), cut = own_share(rows, 1);
  const auto step = [&](StepRun& run, const std::vector<PackedBatch>& batches) {
    return run.run_vaccine(kVaccine, one_stream(kStep, batches, rows.label_tokens));
  };
  step(*one, whole);
  step(*many, cut);
  for (int unit = 0; unit < one->num_units(); ++unit) {
    const at::Tensor &expected = one->gradient(unit), &actual = many->gradient(unit);
    const double largest = expected.abs().max().item<double>();
    EXPECT_TRUE(at::allclose(actual, expected, 0, GetParam().precision.bound * largest)) << unit;
  }
}

TEST_P(ModesTest, RanksSendWhatThePlanSays) {
  const Rows rows(6);
  const std::vector<PackedBatch> own = own_share(rows, 1);
  for (const ShardOptions& shard : placements()) {
    SCOPED_TRACE(text(shard));
    const std::unique_ptr<StepRun> run = make_run(shard);
    const ModelPlan& model = run->state().plan();
    vaccine::VaccineMethod method(kVaccine, {.model = *model.model,
                                             .probe = model.probe ? *model.probe : *model.model,
                                             .device = at::kCPU});
    const Workload workload{.num_micro_batches = static_cast<int64_t>(own.size())};
    const StepPlan plan = plan_step(
        model, shard, {.num_ranks = world_.size(), .ranks_per_node = node_size()}, {}, {},
        RecordingEngine(*model.model).record(method, kStep, {own.size()}), {&workload, 1});
    std::vector<int64_t> before;
    for (int step = 0; step < 4; ++step) {  // what stays gathered settles in the first ones
      std::vector<int64_t> sent;
      const Mesh& mesh = run->mesh();
      for (const auto* group :
           {&mesh.frozen, &mesh.trainable, &mesh.probe, &mesh.reduce, &mesh.replicas})
        sent.push_back((*group)->statistics().num_bytes);
      if (step == 3) {
        const WireBytes& wire = plan.wire;
        const int64_t planned[] = {wire.frozen, wire.trainable, wire.probe, wire.reduce,
                                   wire.replicas};
        for (size_t i = 0; i < sent.size(); ++i)
          EXPECT_EQ(sent[i] - before[i], planned[i]) << "group " << i;
      }
      before = sent;
      run->run_vaccine(kVaccine, one_stream(kStep, own, rows.label_tokens));
      run->touch_weights();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Computed, ModesTest, ::testing::ValuesIn(modes()), [](const auto& tested) {
  const Mode& mode = tested.param;
  return cat(mode.full_parameters ? "TiedBase" : "Lora", "_", word_of(mode.precision.dtype),
             "_probe_", word_of(mode.precision.probe));
});

}  // namespace
}  // namespace vax::train
