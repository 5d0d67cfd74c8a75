// The plan of a step against the objects that a run makes of the same model: one rank here, and
// every rank of a group in what they only cut. Bytes on the wire are compared with the counters of
// real collectives where there are ranks (tests/mpi).
#include "train/step_plan.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "base/error.h"
#include "data/packing.h"
#include "support/tiny_llama.h"
#include "train/optimizer.h"
#include "train/recording_engine.h"

namespace vax::train {
namespace {

using Lengths = std::vector<int64_t>;

struct Batches {
  int64_t global_batch;
  std::optional<int64_t> micro_batch = std::nullopt;
};
Workload workload_of(const Lengths& lengths, const Lengths& labels, const Batches& batches,
                     int num_ranks) {
  return train::workload_of(lengths, labels, batches.global_batch, batches.micro_batch, num_ranks);
}

void expect_workload(const Workload& workload, const Workload& expected) {
  EXPECT_EQ(workload.num_micro_batches, expected.num_micro_batches);
  EXPECT_EQ(workload.micro_rows, expected.micro_rows);
  EXPECT_EQ(workload.micro_tokens, expected.micro_tokens);
  EXPECT_EQ(workload.micro_labels, expected.micro_labels);
  EXPECT_EQ(workload.rank_tokens, expected.rank_tokens);
}

TEST(WorkloadOf, IsTheLongestRowsTogether) {
  const Lengths lengths = {3, 9, 1, 7, 5, 2}, labels = {2, 1, 0, 6, 4, 1};
  // All five rows of a batch on one rank: the shortest row is left out.
  expect_workload(workload_of(lengths, labels, Batches{5}, 1), {1, 5, 26, 14, 26});
  // Two ranks: the first has three rows.
  expect_workload(workload_of(lengths, labels, Batches{5}, 2), {1, 3, 21, 12, 21});
  // In micro-batches of two: most labels need not be in the longest rows.
  expect_workload(workload_of(lengths, labels, Batches{5, 2}, 2), {2, 2, 16, 10, 21});
  expect_workload(workload_of(lengths, labels, Batches{5, 1}, 1), {5, 1, 9, 6, 26});
  // A micro-batch larger than the share is the share.
  expect_workload(workload_of(lengths, labels, Batches{5, 100}, 2), {1, 3, 21, 12, 21});
  // More ranks than rows: one each.
  expect_workload(workload_of(lengths, labels, Batches{5}, 8), {1, 1, 9, 6, 9});
}

TEST(WorkloadOf, AGlobalBatchHasNoMoreRowsThanTheData) {
  expect_workload(workload_of({4, 2}, {3, 1}, Batches{64, 8}, 1), {1, 2, 6, 4, 6});
}

// What data::pack_share gives to a rank is within it, for any order, and at it for the worst.
TEST(WorkloadOf, BoundsWhatARankIsGiven) {
  std::mt19937_64 random(1);
  data::Dataset dataset = testing::tiny_dataset(testing::tiny_config(), 9);
  std::vector<int64_t> rows(9);
  std::iota(rows.begin(), rows.end(), 0);
  Lengths lengths, labels;
  for (const data::Sample& sample : dataset.samples) {
    lengths.push_back(sample.size());
    labels.push_back(sample.num_labels());
  }
  for (const int num_ranks : {1, 2, 4})
    for (const std::optional<int64_t> micro :
         {std::optional<int64_t>(), std::optional<int64_t>(2)}) {
      const Workload workload = workload_of(lengths, labels, Batches{9, micro}, num_ranks);
      Workload most{.num_micro_batches = 0};
      const auto deal = [&] {
        for (int rank = 0; rank < num_ranks; ++rank) {
          const std::vector<PackedBatch> share =
              data::pack_share(dataset, rows, rank, num_ranks, micro);
          EXPECT_EQ(std::ssize(share), workload.num_micro_batches);
          int64_t rank_tokens = 0;
          for (const PackedBatch& batch : share) {
            rank_tokens += batch.num_tokens();
            most.micro_tokens = std::max(most.micro_tokens, batch.num_tokens());
            most.micro_labels = std::max(most.micro_labels, batch.num_labels());
          }
          most.rank_tokens = std::max(most.rank_tokens, rank_tokens);
        }
      };
      for (int order = 0; order < 50; ++order) {
        std::ranges::shuffle(rows, random);
        deal();
      }
      EXPECT_LE(most.micro_labels, workload.micro_labels);
      EXPECT_LE(most.micro_tokens, workload.micro_tokens);
      EXPECT_LE(most.rank_tokens, workload.rank_tokens);
      // Longest rows first, then most labels first.
      std::ranges::sort(rows, std::greater<>(), [&](int64_t row) { return lengths[row]; });
      deal();
      EXPECT_EQ(most.micro_tokens, workload.micro_tokens);
      EXPECT_EQ(most.rank_tokens, workload.rank_tokens);
      std::ranges::sort(rows, std::greater<>(), [&](int64_t row) { return labels[row]; });
      deal();
      EXPECT_EQ(most.micro_labels, workload.micro_labels);
    }
}

int group_size_of(Placement placement, bool trainable, ShardOptions shard, const Layout& layout) {
  (trainable ? shard.trainable : shard.frozen) = placement;
  return train::group_size_of(placement_of(shard, trainable, layout.on_device), shard, layout);
}

TEST(GroupSizeOf, FollowsThePlacement) {
  const Layout layout{.num_ranks = 12, .ranks_per_node = 4};
  for (const bool trainable : {false, true}) {
    EXPECT_EQ(group_size_of(Placement::kFull, trainable, {}, layout), 12);
    EXPECT_EQ(group_size_of(Placement::kNode, trainable, {}, layout), 4);
    EXPECT_EQ(group_size_of(Placement::kFull, trainable, {.group_size = 6}, layout), 6);
    // Nothing to ask.
    EXPECT_EQ(group_size_of(Placement::kNode, trainable, {.group_size = 6}, layout), 4);
  }
  EXPECT_EQ(group_size_of(Placement::kReplicate, false, {}, layout), 4);  // as node
  // Masters are spread all the same.
  EXPECT_EQ(group_size_of(Placement::kReplicate, true, {}, layout), 12);
  EXPECT_EQ(group_size_of(Placement::kReplicate, true, {.group_size = 3}, layout), 3);
  // Ranks of GPUs share no memory.
  const Layout gpus{.num_ranks = 12, .ranks_per_node = 4, .on_device = true};
  EXPECT_EQ(group_size_of(Placement::kReplicate, false, {}, gpus), 12);
  EXPECT_THROW(group_size_of(Placement::kNode, false, {}, gpus), ConfigError);
}

TEST(PlacementOf, KeepsGatheredUnitsWhereNothingIsShared) {
  const ShardOptions replicate{.frozen = Placement::kReplicate, .trainable = Placement::kReplicate};
  EXPECT_FALSE(placement_of(replicate, false, false).keeps_all);
  EXPECT_TRUE(placement_of(replicate, true, false).keeps_all);
  EXPECT_TRUE(placement_of(replicate, false, true).keeps_all);
  EXPECT_FALSE(placement_of({}, false, false).keeps_all);
}

TEST(GroupSizeOf, RefusesWhatDoesNotDivide) {
  const Layout layout{.num_ranks = 12, .ranks_per_node = 4};
  for (const int64_t size : {5, 24}) try {
      group_size_of(Placement::kFull, true, {.group_size = size}, layout);
      FAIL() << size;
    } catch (const ConfigError& error) {
      EXPECT_EQ(error.what(), cat("shard.group_size: expected a divisor of the number of ranks = "
                                  "12, found ",
                                  size));
    }
}

struct Kind {
  bool full, tied;
  ModelDtype dtype;
  ProbeDtype probe_dtype = ProbeDtype::kSame;
};

std::vector<Kind> kinds() {
  std::vector<Kind> kinds;
  for (const bool full : {false, true})
    for (const bool tied : {false, true})
      for (const ModelDtype dtype : {ModelDtype::kFp32, ModelDtype::kBf16})
        for (const ProbeDtype probe : {ProbeDtype::kSame, ProbeDtype::kBf16})
          kinds.push_back({full, tied, dtype, probe});
  return kinds;
}

std::string text_of(const Kind& kind) {
  return cat(kind.full ? "full " : "LoRA ", kind.tied ? "tied " : "", word_of(kind.dtype),
             ", probe ", word_of(kind.probe_dtype));
}

ModelPlan model_of(const Kind& kind, const ShardOptions& shard = {}) {
  ModelRequest request;
  request.model.dtype = kind.dtype;
  request.shard = shard;
  request.train_base = kind.full;
  request.probe_dtype = kind.probe_dtype;
  return ModelPlan(request, testing::tiny_config(kind.tied),
                   kind.full ? model::LoraSpec{} : testing::tiny_lora());
}

// What a recorder makes of passes that are given by hand.
class Passes final : public Method {
 public:
  explicit Passes(std::vector<PassSpec> specs) : specs_(std::move(specs)) {}
  StepOutcome step(Engine& engine) override {
    engine.passes(0, [&] {
      for (const PassSpec& spec : specs_) engine.pass(engine.all(), spec);
    });
    return {};
  }

 private:
  std::vector<PassSpec> specs_;
};

Recording record(const ModelPlan& model, std::vector<PassSpec> specs) {
  Passes method(std::move(specs));
  return RecordingEngine(*model.model).record(method, 1, {1});
}

const PassSpec kProbePass{.weights = PassWeights::kProbe,
                          .weight_gradients = false,
                          .kept_bytes = 7,
                          .kept_bytes_per_token = 240};
// Two passes, the first on the probe.
Recording two_passes(const ModelPlan& model) { return record(model, {kProbePass, {}}); }

constexpr Workload kWorkload = {
    .num_micro_batches = 1, .micro_tokens = 20, .micro_labels = 11, .rank_tokens = 31};

StepPlan plan_step(const ModelPlan& model, const ShardOptions& shard, const Layout& layout,
                   const Recording& recording, const Workload& workload,
                   const TrainOptions& options = {}, const MethodDeclaration& method = {}) {
  return train::plan_step(model, shard, layout, options, method, recording, {&workload, 1});
}

// The objects of a run on one rank of `group`, without values.
struct Objects {
  Objects(const ModelPlan& model, dist::Collectives& group)
      : frozen(model.model->frozen_layout(), group, model.frozen_units),
        trainable(model.model->trainable_layout(), group, model.trainable_units),
        gradients(group, trainable.layout().units(), at::kCPU),
        optimizer(trainable, gradients, {}) {
    Plane& copied = model.train_base ? trainable : frozen;
    if (model.probe) probe.emplace(copied, group, model.probe_units);
  }
  int64_t slot_bytes() const {
    return frozen.units().slot_bytes() + trainable.units().slot_bytes() +
           (probe ? probe->units().slot_bytes() : 0);
  }

  Plane frozen, trainable;
  std::optional<Plane> probe;
  dist::ShardedGradients gradients;
  ShardedAdamW optimizer;
};

void expect_memory_of(const Objects& objects, const MemoryParts& planned) {
  EXPECT_EQ(planned.weights,
            objects.frozen.units().shard_bytes() + objects.trainable.units().shard_bytes());
  EXPECT_EQ(planned.slots, objects.slot_bytes());
  EXPECT_EQ(planned.gradients, objects.gradients.num_bytes());
  EXPECT_EQ(planned.optimizer, objects.optimizer.num_bytes());
}

TEST(PlanStep, OfOneRankIsWhatItsObjectsTake) {
  for (const Kind& kind : kinds()) {
    SCOPED_TRACE(text_of(kind));
    const ModelPlan model = model_of(kind);
    const StepPlan plan = plan_step(model, {}, {}, two_passes(model), kWorkload);
    const auto group = dist::make_self_collectives();
    const Objects objects(model, *group);
    expect_memory_of(objects, plan.memory);
    EXPECT_GT(plan.memory.weights, 0);
    EXPECT_EQ(plan.memory.drift, 0);
    EXPECT_EQ(plan.wire.total(), 0);
  }
}

// By hand: the elements of the tiny model, without the objects.
TEST(PlanStep, CountsBytesOfEveryElement) {
  const auto counted = [](const FlatLayout& layout) {
    int64_t sum = 0;
    for (const FlatUnit& unit : layout) sum += unit.count;
    return sum;
  };
  const ModelPlan lora = model_of({.full = false, .tied = false, .dtype = ModelDtype::kBf16});
  const int64_t frozen = counted(lora.model->frozen_layout());
  const int64_t factors = counted(lora.model->trainable_layout());
  MemoryParts memory = plan_step(lora, {}, {}, two_passes(lora), kWorkload).memory;
  EXPECT_EQ(memory.weights, 2 * frozen + 4 * factors);
  EXPECT_EQ(memory.slots, 0);  // both are computed with as they are stored
  EXPECT_EQ(memory.gradients, 4 * factors);
  EXPECT_EQ(memory.optimizer, 8 * factors);

  // fp32 masters; in bf16 every unit has a cast.
  for (const ModelDtype dtype : {ModelDtype::kFp32, ModelDtype::kBf16}) {
    const ModelPlan full = model_of({.full = true, .tied = true, .dtype = dtype});
    const int64_t all = counted(full.model->trainable_layout());
    memory = plan_step(full, {}, {}, two_passes(full), kWorkload).memory;
    EXPECT_EQ(memory.weights, 4 * all);
    EXPECT_EQ(memory.slots, dtype == ModelDtype::kBf16 ? 2 * all : 0);
    EXPECT_EQ(memory.gradients, 4 * all);
    EXPECT_EQ(memory.optimizer, 8 * all);
  }
}

// Ranks that do not exist: what each has of the cut is known without them.
TEST(PlanStep, OfSeveralRanksIsWhatTheObjectsOfEachTake) {
  for (const Kind& kind : kinds())
    for (const ShardOptions& shard :
         {ShardOptions{}, ShardOptions{.trainable = Placement::kReplicate},
          ShardOptions{.residency_gib = 1e-5, .prefetch = 0}, ShardOptions{.residency_gib = 1}})
      for (const int rank : {0, 3}) {
        SCOPED_TRACE(
            cat(text_of(kind), ", ", word_of(shard.trainable), ", ", shard.residency_gib, " GiB"));
        const ModelPlan model = model_of(kind, shard);
        const StepPlan plan = plan_step(model, shard, {.num_ranks = 4, .ranks_per_node = 2},
                                        two_passes(model), kWorkload);
        testing::LonelyRank group(rank, 4);
        const Objects objects(model, group);
        expect_memory_of(objects, plan.memory);
        EXPECT_GT(plan.wire.total(), 0);
        EXPECT_EQ(plan.wire.replicas, 0);  // one shard group
      }
}

TEST(PlanStep, SmallerGroupsHoldMoreAndTalkToReplicas) {
  const ModelPlan model = model_of({.full = true, .tied = false, .dtype = ModelDtype::kFp32});
  const Layout layout{.num_ranks = 8, .ranks_per_node = 4};
  const auto plan = [&](const ShardOptions& shard) {
    return plan_step(model_of({.full = true, .tied = false, .dtype = ModelDtype::kFp32}, shard),
                     shard, layout, two_passes(model), kWorkload);
  };
  const StepPlan full = plan({}), halves = plan({.group_size = 4}), alone = plan({.group_size = 1});
  EXPECT_LT(full.memory.weights, halves.memory.weights);
  EXPECT_LT(halves.memory.weights, alone.memory.weights);
  EXPECT_EQ(alone.memory.optimizer, 2 * alone.memory.weights);
  EXPECT_EQ(alone.wire.trainable + alone.wire.frozen + alone.wire.reduce, 0);
  EXPECT_GT(alone.wire.replicas, halves.wire.replicas);
  EXPECT_EQ(full.wire.replicas, 0);
  const StepPlan node = plan({.frozen = Placement::kNode, .trainable = Placement::kNode});
  EXPECT_EQ(node.wire.trainable + node.wire.frozen + node.wire.reduce, 0);  // read in place
  EXPECT_GT(node.wire.replicas, 0);
}

TEST(PlanStep, RefusesALayoutThatCannotBeCut) {
  const ModelPlan model = model_of({.full = true, .tied = false, .dtype = ModelDtype::kFp32});
  EXPECT_THROW(plan_step(model, {.group_size = 3}, {.num_ranks = 4, .ranks_per_node = 4},
                         two_passes(model), kWorkload),
               ConfigError);
}

TEST(PlanStep, TakesTheLargestPassAndWhatIsKept) {
  const ModelPlan model = model_of({.full = true, .tied = false, .dtype = ModelDtype::kFp32});
  const auto bytes = [&](bool weight_gradients, bool recompute) {
    return model.model->activation_bytes({.num_tokens = kWorkload.micro_tokens,
                                          .num_labels = kWorkload.micro_labels,
                                          .weight_gradients = weight_gradients,
                                          .recompute = recompute});
  };
  EXPECT_LT(bytes(true, true), bytes(true, false));
  EXPECT_LT(bytes(false, false), bytes(true, false));
  EXPECT_LT(bytes(true, true), bytes(false, false));
  EXPECT_LT(bytes(false, true), bytes(false, false));
  const auto planned = [&](std::vector<PassSpec> specs, Recompute recompute) {
    return plan_step(model, {}, {}, record(model, std::move(specs)), kWorkload,
                     {.recompute = recompute})
        .memory.activations;
  };
  EXPECT_EQ(planned({kProbePass, {}}, Recompute::kNone), bytes(true, false));
  // The pass without weight gradients keeps what it needs: it is the larger one then.
  EXPECT_EQ(planned({kProbePass, {}}, Recompute::kPass2), bytes(false, false));
  EXPECT_EQ(planned({{}}, Recompute::kPass2), bytes(true, true));
  EXPECT_EQ(planned({kProbePass, {}}, Recompute::kAll),
            std::max(bytes(false, true), bytes(true, true)));
  EXPECT_EQ(plan_step(model, {}, {}, two_passes(model), kWorkload).memory.perturbation,
            7 + 240 * kWorkload.rank_tokens);
}

TEST(PlanStep, AProbeOfItsOwnIsCountedInItsOwnType) {
  const ModelPlan model = model_of(
      {.full = true, .tied = false, .dtype = ModelDtype::kFp32, .probe_dtype = ProbeDtype::kBf16});
  ASSERT_NE(model.probe, nullptr);
  EXPECT_EQ(plan_step(model, {}, {}, record(model, {kProbePass}), kWorkload).memory.activations,
            model.probe->activation_bytes({.num_tokens = kWorkload.micro_tokens,
                                           .num_labels = kWorkload.micro_labels,
                                           .weight_gradients = false}));
  // A probe in the type of the update is none.
  EXPECT_EQ(model_of({.full = true,
                      .tied = false,
                      .dtype = ModelDtype::kBf16,
                      .probe_dtype = ProbeDtype::kBf16})
                .probe,
            nullptr);
}

// What a method keeps that is shaped like the shards, and the copy that moved weights need.
TEST(PlanStep, CountsTheMethodsVectors) {
  const ModelPlan model = model_of({.full = true, .tied = false, .dtype = ModelDtype::kFp32});
  const auto planned = [&](const MethodDeclaration& method) {
    return plan_step(model, {}, {.num_ranks = 2, .ranks_per_node = 1}, two_passes(model), kWorkload,
                     {}, method)
        .memory;
  };
  const int64_t vector = planned({}).optimizer / 2;
  EXPECT_EQ(planned({}).vectors, 0);
  EXPECT_EQ(planned({.vectors = {{"anchor", true}, {"kept", false}}}).vectors, 2 * vector);
  EXPECT_EQ(planned({.vectors = {{"anchor", true}}, .moves_weights = true}).vectors, 2 * vector);
}

TEST(PlanStep, NamesPlanesAndUnits) {
  const ModelPlan model = model_of(
      {.full = false, .tied = false, .dtype = ModelDtype::kFp32, .probe_dtype = ProbeDtype::kBf16});
  const StepPlan plan =
      plan_step(model, {}, {.num_ranks = 2, .ranks_per_node = 1}, two_passes(model), kWorkload);
  std::vector<std::string> names;
  for (const PlanePlan& plane : plan.planes) names.push_back(plane.name);
  EXPECT_EQ(names, (std::vector<std::string>{"frozen", "trainable", "probe"}));
  EXPECT_EQ(plan.planes[0].unit_names.size(), 5U);
  EXPECT_EQ(plan.planes[1].unit_names.size(), 3U);  // embedding and head have no factors
  EXPECT_EQ(plan.planes[2].unit_names, plan.planes[0].unit_names);
  EXPECT_FALSE(plan.planes[0].changes);
  EXPECT_TRUE(plan.planes[1].changes);
  EXPECT_FALSE(plan.planes[2].changes);  // copies of frozen weights
  EXPECT_GT(plan.wire.probe, 0);
  // Half the bytes of an element, the same uses.
  EXPECT_EQ(2 * plan.wire.probe, plan.wire.frozen);
}

// Trainable units are gathered anew after a change, frozen ones are told the whole step; every
// gradient is summed over the replicas.
TEST(PlanStep, AStepThatMovesItsWeightsGathersThemAgain) {
  class Moving final : public Method {
   public:
    StepOutcome step(Engine& engine) override {
      const auto pass = [&](int kind) {
        engine.passes(kind, [&] { engine.pass(engine.all(), {}); });
      };
      pass(0);
      const ShardVector& direction = engine.reduce();
      engine.move(direction, 0.1);
      engine.clear_gradient();
      pass(1);
      engine.reduce();
      engine.restore();
      return {};
    }
  };
  for (const bool full : {false, true}) {
    const ModelPlan model = model_of({.full = full, .tied = false, .dtype = ModelDtype::kFp32});
    const Layout layout{.num_ranks = 4, .ranks_per_node = 1};
    const ShardOptions shard{.group_size = 2};
    Moving method;
    const Recording moving = RecordingEngine(*model.model).record(method, 1, {1});
    ASSERT_EQ(moving.segments.size(), 3U);
    EXPECT_TRUE(moving.segments[2].empty());
    const StepPlan once = plan_step(model, shard, layout, record(model, {{}}), kWorkload);
    const StepPlan twice = plan_step(model, shard, layout, record(model, {{}, {}}), kWorkload);
    const StepPlan moved = plan_step(model, shard, layout, moving, kWorkload);
    EXPECT_EQ(moved.wire.trainable, 2 * once.wire.trainable);
    EXPECT_LT(twice.wire.trainable, moved.wire.trainable);
    EXPECT_EQ(moved.wire.frozen, twice.wire.frozen);
    EXPECT_EQ(moved.wire.reduce, 2 * once.wire.reduce);
    EXPECT_EQ(moved.wire.replicas, 2 * once.wire.replicas);
  }
}

TEST(SftPlan, IsOnePassOverEveryMicroBatch) {
  const ModelPlan model = model_of({.full = true, .tied = true, .dtype = ModelDtype::kFp32});
  Passes sft({PassSpec{}});
  const Recording recording = RecordingEngine(*model.model).record(sft, 1, {3});
  ASSERT_EQ(recording.passes.size(), 1U);
  EXPECT_TRUE(recording.passes[0].weight_gradients);
  EXPECT_FALSE(recording.passes[0].keeps());
  EXPECT_EQ(recording.num_reductions, 1);
  const std::vector<int> once = model.model->unit_uses(true);
  ASSERT_EQ(recording.segments.size(), 1U);
  const std::vector<UnitUse>& uses = recording.segments[0];
  ASSERT_EQ(uses.size(), 3 * once.size());
  for (size_t i = 0; i < uses.size(); ++i)
    EXPECT_EQ(uses[i], (UnitUse{.unit = once[i % once.size()]}));
  EXPECT_EQ(recording.gradient_releases.size(), 3 * model.model->gradient_uses().size());
}

TEST(MemoryParts, AddUpAndAreVisitedInOrder) {
  MemoryParts parts{.weights = 1,
                    .slots = 20,
                    .gradients = 300,
                    .optimizer = 4000,
                    .activations = 50'000,
                    .perturbation = 600'000,
                    .vectors = 0,
                    .drift = 7'000'000,
                    .checkpoint = 80'000'000};
  EXPECT_EQ(parts.total(), 87'654'321);
  std::string names;
  visit_memory(parts, [&](const char* name, int64_t&) { names += cat(name, " "); });
  EXPECT_EQ(names, "weights slots gradients optimizer activations perturbation drift checkpoint ");
  // Few methods have vectors of their own; the others' files do not mention them.
  parts.vectors = 900'000'000;
  EXPECT_EQ(parts.total(), 987'654'321);
}

TEST(WireBytes, AddUp) {
  EXPECT_EQ(
      (WireBytes{.frozen = 1, .trainable = 20, .probe = 300, .reduce = 4000, .replicas = 50'000})
          .total(),
      54'321);
}

}  // namespace
}  // namespace vax::train
