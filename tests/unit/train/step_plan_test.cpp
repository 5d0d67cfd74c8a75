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

namespace vax::train {
namespace {

using Lengths = std::vector<int64_t>;

TrainOptions batches(int64_t global_batch, std::optional<int64_t> micro_batch = std::nullopt) {
  TrainOptions options;
  options.global_batch = global_batch;
  options.micro_batch = micro_batch;
  return options;
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
  expect_workload(workload_of(lengths, labels, batches(5), 1), {1, 5, 26, 14, 26});
  // Two ranks: the first has three rows.
  expect_workload(workload_of(lengths, labels, batches(5), 2), {1, 3, 21, 12, 21});
  // In micro-batches of two: most labels need not be in the longest rows.
  expect_workload(workload_of(lengths, labels, batches(5, 2), 2), {2, 2, 16, 10, 21});
  expect_workload(workload_of(lengths, labels, batches(5, 1), 1), {5, 1, 9, 6, 26});
  // A micro-batch larger than the share is the share.
  expect_workload(workload_of(lengths, labels, batches(5, 100), 2), {1, 3, 21, 12, 21});
  // More ranks than rows: one each.
  expect_workload(workload_of(lengths, labels, batches(5), 8), {1, 1, 9, 6, 9});
}

TEST(WorkloadOf, AGlobalBatchHasNoMoreRowsThanTheData) {
  expect_workload(workload_of({4, 2}, {3, 1}, batches(64, 8), 1), {1, 2, 6, 4, 6});
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
      const Workload workload = workload_of(lengths, labels, batches(9, micro), num_ranks);
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

TEST(GroupSizeOf, FollowsThePlacement) {
  const Layout layout{.num_ranks = 12, .ranks_per_node = 4};
  for (const bool trainable : {false, true}) {
    EXPECT_EQ(group_size_of(Placement::kFull, trainable, {}, layout), 12);
    EXPECT_EQ(group_size_of(Placement::kNode, trainable, {}, layout), 4);
    EXPECT_EQ(group_size_of(Placement::kFull, trainable, {.group_size = 6}, layout), 6);
    EXPECT_EQ(group_size_of(Placement::kNode, trainable, {.group_size = 6}, layout),
              4);  // nothing to ask
  }
  EXPECT_EQ(group_size_of(Placement::kReplicate, false, {}, layout), 4);  // as node
  EXPECT_EQ(group_size_of(Placement::kReplicate, true, {}, layout),
            12);  // masters are spread all the same
  EXPECT_EQ(group_size_of(Placement::kReplicate, true, {.group_size = 3}, layout), 3);
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

// Two passes, the first on the probe.
MethodPlan two_passes(const ModelPlan& model, size_t num_micro_batches = 1) {
  MethodPlan plan{.passes = {{.probe = true, .weight_gradients = false}, {}},
                  .kept_bytes_per_token = 240,
                  .kept_bytes = 7};
  append_uses(*model.model, num_micro_batches, true, plan.uses);
  append_uses(*model.model, num_micro_batches, false, plan.uses);
  return plan;
}

constexpr Workload kWorkload = {
    .num_micro_batches = 1, .micro_tokens = 20, .micro_labels = 11, .rank_tokens = 31};

// The objects of a run on one rank of `group`, without values.
struct Objects {
  Objects(const ModelPlan& model, dist::Collectives& group)
      : frozen(model.model->frozen_layout(), group, model.frozen_units),
        trainable(model.model->trainable_layout(), group, model.trainable_units),
        gradients(group, trainable.unit_layout(), at::kCPU),
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
  const auto bytes = [&](const PassPlan& pass) {
    return model.model->activation_bytes({.num_tokens = kWorkload.micro_tokens,
                                          .num_labels = kWorkload.micro_labels,
                                          .weight_gradients = pass.weight_gradients,
                                          .recompute = pass.recompute});
  };
  const PassPlan probe{.weight_gradients = false}, update{}, recomputed{.recompute = true};
  EXPECT_LT(bytes(recomputed), bytes(update));
  EXPECT_LT(bytes(probe), bytes(update));
  EXPECT_LT(bytes(recomputed), bytes(probe));
  const auto planned = [&](std::vector<PassPlan> passes) {
    MethodPlan method = two_passes(model);
    method.passes = std::move(passes);
    return plan_step(model, {}, {}, method, kWorkload).memory.activations;
  };
  EXPECT_EQ(planned({probe, update}), bytes(update));
  EXPECT_EQ(planned({probe, recomputed}), bytes(probe));
  EXPECT_EQ(planned({recomputed}), bytes(recomputed));
  EXPECT_EQ(plan_step(model, {}, {}, two_passes(model), kWorkload).memory.perturbation,
            7 + 240 * kWorkload.rank_tokens);
}

TEST(PlanStep, AProbeOfItsOwnIsCountedInItsOwnType) {
  const ModelPlan model = model_of(
      {.full = true, .tied = false, .dtype = ModelDtype::kFp32, .probe_dtype = ProbeDtype::kBf16});
  ASSERT_NE(model.probe, nullptr);
  MethodPlan method = two_passes(model);
  method.passes = {{.probe = true, .weight_gradients = false}};
  EXPECT_EQ(plan_step(model, {}, {}, method, kWorkload).memory.activations,
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

TEST(SftPlan, IsOnePassOverEveryMicroBatch) {
  const ModelPlan model = model_of({.full = true, .tied = true, .dtype = ModelDtype::kFp32});
  TrainOptions options;
  const MethodPlan plan = sft_plan(options, *model.model, 3);
  ASSERT_EQ(plan.passes.size(), 1U);
  EXPECT_TRUE(plan.passes[0].weight_gradients);
  EXPECT_FALSE(plan.passes[0].recompute);
  EXPECT_FALSE(plan.passes[0].probe);
  EXPECT_EQ(plan.kept_bytes + plan.kept_bytes_per_token, 0);
  const std::vector<int> once = model.model->unit_uses(true);
  ASSERT_EQ(plan.uses.size(), 3 * once.size());
  for (size_t i = 0; i < plan.uses.size(); ++i)
    EXPECT_EQ(plan.uses[i], (UnitUse{.unit = once[i % once.size()]}));
  for (const Recompute recompute : {Recompute::kPass2, Recompute::kAll}) {
    options.recompute = recompute;
    EXPECT_TRUE(sft_plan(options, *model.model, 1).passes.at(0).recompute) << word_of(recompute);
  }
}

TEST(MemoryParts, AddUpAndAreVisitedInOrder) {
  MemoryParts parts{.weights = 1,
                    .slots = 20,
                    .gradients = 300,
                    .optimizer = 4000,
                    .activations = 50'000,
                    .perturbation = 600'000,
                    .drift = 7'000'000,
                    .checkpoint = 80'000'000};
  EXPECT_EQ(parts.total(), 87'654'321);
  std::string names;
  visit_memory(parts, [&](const char* name, int64_t&) { names += cat(name, " "); });
  EXPECT_EQ(names, "weights slots gradients optimizer activations perturbation drift checkpoint ");
}

TEST(WireBytes, AddUp) {
  EXPECT_EQ(
      (WireBytes{.frozen = 1, .trainable = 20, .probe = 300, .reduce = 4000, .replicas = 50'000})
          .total(),
      54'321);
}

}  // namespace
}  // namespace vax::train
