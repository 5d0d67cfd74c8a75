#include "train/step_plan.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/narrow.h"
#include "data/packing.h"
#include "dist/comm/collectives.h"

namespace vax::train {
namespace {

std::vector<int64_t> counts_of(const FlatLayout& units) {
  std::vector<int64_t> counts;
  for (const FlatUnit& unit : units) counts.push_back(unit.count);
  return counts;
}

// A plane of the model by its layout alone: which units it has, and their places in it.
class PlaneOutline {
 public:
  explicit PlaneOutline(const FlatLayout& layout) {
    for (const FlatUnit& unit : layout) {
      index_.push_back(unit.count > 0 ? static_cast<int>(units_.size()) : -1);
      if (unit.count > 0) units_.push_back(unit);
    }
  }

  const FlatLayout& units() const { return units_; }
  int index_of(int unit) const { return index_.at(static_cast<size_t>(unit)); }

 private:
  FlatLayout units_;
  std::vector<int> index_;
};

// Which of a step's uses a plane takes part in.
enum class Users { kAll, kUpdate, kProbe };

PlanePlan plan_plane(std::string name, const FlatLayout& layout, int group_size,
                     const dist::ShardedUnitsOptions& options, const MethodPlan& method,
                     Users users, const std::optional<dist::Nesting>& nesting) {
  const PlaneOutline outline(layout);
  std::vector<int> own;
  for (const UnitUse& use : method.uses) {
    if (users != Users::kAll && use.probe != (users == Users::kProbe)) continue;
    if (outline.index_of(use.unit) >= 0) own.push_back(outline.index_of(use.unit));
  }
  std::optional<dist::Nesting> own_nesting;
  if (nesting && outline.index_of(nesting->outer) >= 0 && outline.index_of(nesting->inner) >= 0)
    own_nesting = {.outer = outline.index_of(nesting->outer),
                   .inner = outline.index_of(nesting->inner)};
  PlanePlan plan{.name = std::move(name)};
  for (const FlatUnit& unit : outline.units()) plan.unit_names.push_back(unit.name);
  plan.units = dist::plan_units(counts_of(outline.units()), group_size, options,
                                dist::unit_events(own, own_nesting));
  return plan;
}

// Units in the order in which the backward of a pass releases their gradients.
std::vector<int> gradient_releases(const model::Model& model, const MethodPlan& method,
                                   const Workload& workload) {
  const PlaneOutline outline(model.trainable_layout());
  const std::vector<int> once = model.gradient_uses();
  std::vector<int> releases;
  const int64_t passes =
      workload.num_micro_batches *
      std::ranges::count_if(method.passes, [](const PassPlan& p) { return p.weight_gradients; });
  for (int64_t pass = 0; pass < passes; ++pass)
    for (const int unit : once)
      if (outline.index_of(unit) >= 0) releases.push_back(outline.index_of(unit));
  return releases;
}

int64_t largest_pass(const ModelPlan& model, const Layout& layout, const MethodPlan& method,
                     const Workload& workload) {
  int64_t largest = 0;
  for (const PassPlan& pass : method.passes)
    largest = std::max(largest, (pass.probe && model.probe ? *model.probe : *model.model)
                                    .activation_bytes({.num_tokens = workload.micro_tokens,
                                                       .num_labels = workload.micro_labels,
                                                       .weight_gradients = pass.weight_gradients,
                                                       .recompute = pass.recompute,
                                                       .num_sequences = workload.micro_rows,
                                                       .on_device = layout.on_device}));
  return largest;
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

MethodPlan sft_plan(const TrainOptions& options, const model::Model& model,
                    size_t num_micro_batches) {
  MethodPlan plan{.passes = {{.recompute = options.recompute != Recompute::kNone}}};
  append_uses(model, num_micro_batches, false, plan.uses);
  return plan;
}

Workload workload_of(std::vector<int64_t> lengths, std::vector<int64_t> labels,
                     const TrainOptions& options, int num_ranks) {
  const int64_t rows = std::min(options.global_batch, std::ssize(lengths));
  const int64_t share = data::share_of(rows, 0, num_ranks).count;
  const int64_t micro = std::min(share, options.micro_batch.value_or(share));
  return {.num_micro_batches = data::num_micro_batches(rows, num_ranks, options.micro_batch),
          .micro_rows = micro,
          .micro_tokens = sum_of_largest(lengths, micro),
          .micro_labels = sum_of_largest(labels, micro),
          .rank_tokens = sum_of_largest(lengths, share)};
}

int group_size_of(Placement placement, bool trainable, const ShardOptions& shard,
                  const Layout& layout) {
  const bool on_node = placement == Placement::kNode ||
                       (placement == Placement::kReplicate && !trainable && !layout.on_device);
  if (on_node) return layout.ranks_per_node;
  const int64_t size = shard.group_size.value_or(layout.num_ranks);
  if (size < 1 || layout.num_ranks % size != 0)
    throw ConfigError(cat("shard.group_size: expected a divisor of the number of ranks = ",
                          layout.num_ranks, ", found ", size));
  return narrow<int>(size);
}

StepPlan plan_step(const ModelPlan& model, const ShardOptions& shard, const Layout& layout,
                   const MethodPlan& method, const Workload& workload) {
  const int frozen_size = group_size_of(shard.frozen, false, shard, layout);
  const int trainable_size = group_size_of(shard.trainable, true, shard, layout);
  const FlatLayout &frozen = model.model->frozen_layout(),
                   &trainable = model.model->trainable_layout();
  // The probe has copies of the plane that holds the base; the other one both passes share.
  const bool has_probe = model.probe != nullptr && !model.probe_shares_weights;
  const auto users_of = [&](bool copied) {
    return has_probe && copied ? Users::kUpdate : Users::kAll;
  };
  StepPlan plan;
  plan.planes.push_back(plan_plane("frozen", frozen, frozen_size, model.frozen_units, method,
                                   users_of(!model.train_base), model.nesting));
  plan.planes.push_back(plan_plane("trainable", trainable, trainable_size, model.trainable_units,
                                   method, users_of(model.train_base), model.nesting));
  plan.planes.back().changes = true;
  if (has_probe) {
    plan.planes.push_back(plan_plane("probe", model.train_base ? trainable : frozen,
                                     model.train_base ? trainable_size : frozen_size,
                                     model.probe_units, method, Users::kProbe, model.nesting));
    plan.planes.back().changes = model.train_base;
    plan.planes.back().units.shard_bytes = 0;  // the copied plane's
  }
  const auto gathered = [](const PlanePlan& plane) {
    return plane.changes ? plane.units.first_gathered_bytes : plane.units.steady_gathered_bytes;
  };
  for (const PlanePlan& plane : plan.planes) {
    plan.memory.weights += plane.units.shard_bytes;
    plan.memory.slots += plane.units.slot_bytes;
  }
  // Kept where frozen weights lie whole on a rank (ModelState::allocate).
  if (model.probe_is_fp8 && !model.train_base && plan.planes[0].units.num_slots == 0)
    plan.memory.slots += model.probe->planned_fp8_bytes();
  plan.wire.frozen = gathered(plan.planes[0]);
  plan.wire.trainable = gathered(plan.planes[1]);
  if (has_probe) plan.wire.probe = gathered(plan.planes[2]);

  const PlaneOutline outline(trainable);
  const dist::GradientPlan gradients = dist::plan_gradients(
      counts_of(outline.units()), trainable_size, model.trainable_units.node_shared,
      gradient_releases(*model.model, method, workload));
  plan.memory.gradients = gradients.shard_bytes + gradients.buffer_bytes;
  plan.memory.optimizer = 2 * gradients.shard_bytes;
  plan.wire.reduce = gradients.reduced_bytes;
  for (const FlatUnit& unit : outline.units())
    plan.wire.replicas +=
        dist::all_reduce_bytes(dist::make_partition(unit.count, 0, trainable_size).shard_count,
                               dist::DataType::kFloat32, layout.num_ranks / trainable_size);
  plan.memory.activations = largest_pass(model, layout, method, workload);
  plan.memory.perturbation =
      method.kept_bytes +
      method.kept_bytes_per_token *
          (method.keeps_one_micro_batch ? workload.micro_tokens : workload.rank_tokens);
  return plan;
}

}  // namespace vax::train
