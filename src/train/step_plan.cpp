#include "train/step_plan.h"

#include <algorithm>
#include <numeric>

#include "base/narrow.h"
#include "data/packing.h"
#include "dist/comm/collectives.h"
#include "train/pass_engine.h"
#include "train/plane.h"

namespace vax::train {
namespace {

// Which of a step's uses a plane takes part in.
enum class Users { kAll, kUpdate, kProbe };

std::vector<int> uses_of(Users users, std::span<const std::vector<UnitUse>> segments) {
  std::vector<int> own;
  for (const std::vector<UnitUse>& uses : segments)
    for (const UnitUse& use : uses)
      if (users == Users::kAll || use.probe == (users == Users::kProbe)) own.push_back(use.unit);
  return own;
}

// A plane of the plan and what is gathered of it in a step.
struct PlannedPlane {
  PlanePlan plan;
  int64_t gathered_bytes = 0;
};

PlannedPlane plan_plane(const std::string& name, const PlaneLayout& plane, int group_size,
                        const dist::ShardedUnitsOptions& options, const Recording& recording,
                        Users users, bool changes, std::optional<model::HeldUnits> nesting) {
  const auto plan = [&](std::span<const std::vector<UnitUse>> segments) {
    return dist::plan_units(plane.counts(), group_size, options,
                            plane.events_of(uses_of(users, segments), nesting));
  };
  const std::span<const std::vector<UnitUse>> all = recording.segments;
  PlannedPlane planned{.plan = {.name = name, .changes = changes}};
  for (const FlatUnit& unit : plane.units()) planned.plan.unit_names.push_back(unit.name);
  if (!changes) {
    planned.plan.units = plan(all);
    planned.gathered_bytes = planned.plan.units.steady_gathered_bytes;
    return planned;
  }
  // Every segment begins with nothing gathered.
  for (size_t segment = 0; segment < all.size(); ++segment) {
    dist::ShardingPlan units = plan(all.subspan(segment, 1));
    planned.gathered_bytes += units.first_gathered_bytes;
    if (segment == 0) planned.plan.units = std::move(units);
  }
  return planned;
}

// The pass that needs most.
int64_t largest_pass(const ModelPlan& model, const Layout& layout, const TrainOptions& train,
                     const Recording& recording, std::span<const Workload> workloads) {
  int64_t largest = 0;
  for (const RecordedPass& pass : recording.passes) {
    const Workload& workload = workloads[static_cast<size_t>(pass.micro_batches.stream)];
    const bool on_probe = pass.weights == PassWeights::kProbe && model.probe != nullptr;
    const model::Model& runs = on_probe ? *model.probe : *model.model;
    largest = std::max(largest,
                       runs.activation_bytes({.num_tokens = workload.micro_tokens,
                                              .num_labels = workload.micro_labels,
                                              .weight_gradients = pass.weight_gradients,
                                              .recompute = recomputes(train, pass.weight_gradients),
                                              .num_sequences = workload.micro_rows,
                                              .on_device = layout.on_device}));
  }
  return largest;
}

int64_t kept_bytes(const RecordedPass& pass, const Workload& workload) {
  const auto count = narrow<int64_t>(pass.micro_batches.count);
  const int64_t tokens = count == workload.num_micro_batches
                             ? workload.rank_tokens
                             : std::min(count * workload.micro_tokens, workload.rank_tokens);
  return pass.kept_bytes + pass.kept_bytes_per_token * tokens;
}

int64_t sum_of_largest(std::vector<int64_t>& values, int64_t count) {
  count = std::min(count, std::ssize(values));
  std::ranges::partial_sort(values, values.begin() + count, std::greater<>());
  return std::accumulate(values.begin(), values.begin() + count, int64_t{0});
}

}  // namespace

int64_t MemoryParts::total() const {
  int64_t sum = 0;
  visit_memory(*this, [&sum](const char*, int64_t bytes) { sum += bytes; });
  return sum;
}

Workload workload_of(std::vector<int64_t> lengths, std::vector<int64_t> labels,
                     int64_t global_batch, std::optional<int64_t> micro_batch, int num_ranks) {
  const int64_t rows = std::min(global_batch, std::ssize(lengths));
  const int64_t share = data::share_of(rows, 0, num_ranks).count;
  const int64_t micro = std::min(share, micro_batch.value_or(share));
  return {.num_micro_batches = data::num_micro_batches(rows, num_ranks, micro_batch),
          .micro_rows = micro,
          .micro_tokens = sum_of_largest(lengths, micro),
          .micro_labels = sum_of_largest(labels, micro),
          .rank_tokens = sum_of_largest(lengths, share)};
}

StepPlan plan_step(const ModelPlan& model, const ShardOptions& shard, const Layout& layout,
                   const TrainOptions& train, const MethodDeclaration& method,
                   const Recording& recording, std::span<const Workload> workloads) {
  const int frozen_size = group_size_of(model.frozen_placement, shard, layout);
  const int trainable_size = group_size_of(model.trainable_placement, shard, layout);
  const PlaneLayout frozen(model.model->frozen_layout()),
      trainable(model.model->trainable_layout());
  const std::optional<model::HeldUnits> nesting = model.model->held_together();
  // The probe has copies of the plane that holds the base; the other one both passes share.
  const bool has_probe = model.probe != nullptr && !model.probe_shares_weights;
  const auto users_of = [&](bool copied) {
    return has_probe && copied ? Users::kUpdate : Users::kAll;
  };
  std::vector<PlannedPlane> planes;
  planes.push_back(plan_plane("frozen", frozen, frozen_size, model.frozen_units, recording,
                              users_of(!model.train_base), false, nesting));
  planes.push_back(plan_plane("trainable", trainable, trainable_size, model.trainable_units,
                              recording, users_of(model.train_base), true, nesting));
  if (has_probe) {
    planes.push_back(plan_plane("probe", model.train_base ? trainable : frozen,
                                model.train_base ? trainable_size : frozen_size, model.probe_units,
                                recording, Users::kProbe, model.train_base, nesting));
    planes.back().plan.units.shard_bytes = 0;  // the copied plane's
  }
  StepPlan plan;
  for (const PlannedPlane& plane : planes) {
    plan.memory.weights += plane.plan.units.shard_bytes;
    plan.memory.slots += plane.plan.units.slot_bytes;
    plan.planes.push_back(plane.plan);
  }
  // Kept where frozen weights lie whole on a rank (ModelState::allocate).
  if (model.probe_is_fp8 && !model.train_base && plan.planes[0].units.num_slots == 0)
    plan.memory.slots += model.probe->planned_fp8_bytes();
  plan.wire.frozen = planes[0].gathered_bytes;
  plan.wire.trainable = planes[1].gathered_bytes;
  if (has_probe) plan.wire.probe = planes[2].gathered_bytes;

  const dist::GradientPlan gradients =
      dist::plan_gradients(trainable.counts(), trainable_size, model.trainable_placement.on_node,
                           trainable.indices_of(recording.gradient_releases));
  plan.memory.gradients = gradients.shard_bytes + gradients.buffer_bytes;
  plan.memory.optimizer = 2 * gradients.shard_bytes;
  plan.memory.vectors =
      (std::ssize(method.vectors) + (method.moves_weights ? 1 : 0)) * gradients.shard_bytes;
  plan.wire.reduce = gradients.reduced_bytes;
  for (const FlatUnit& unit : trainable.units())
    plan.wire.replicas +=
        recording.num_reductions *
        dist::all_reduce_bytes(dist::make_partition(unit.count, 0, trainable_size).shard_count,
                               dist::DataType::kFloat32, layout.num_ranks / trainable_size);
  plan.memory.activations = largest_pass(model, layout, train, recording, workloads);
  for (const RecordedPass& pass : recording.passes)
    plan.memory.perturbation =
        std::max(plan.memory.perturbation,
                 kept_bytes(pass, workloads[static_cast<size_t>(pass.micro_batches.stream)]));
  return plan;
}

}  // namespace vax::train
