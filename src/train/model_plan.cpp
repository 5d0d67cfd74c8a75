#include "train/model_plan.h"

#include "base/error.h"

namespace vax::train {
namespace {

int64_t gathered_bytes(const FlatLayout& layout, at::ScalarType type) {
  int64_t count = 0;
  for (const FlatUnit& unit : layout) count += unit.count;
  return count * static_cast<int64_t>(at::elementSize(type));
}

// Planes gather into memory of their own: the budget is divided by their sizes.
void divide_residency(double residency_gib, ModelPlan& plan) {
  const FlatLayout &frozen_layout = plan.model->frozen_layout(),
                   &trainable_layout = plan.model->trainable_layout();
  const int64_t frozen = gathered_bytes(frozen_layout, plan.frozen_units.gather_dtype);
  const int64_t trainable = gathered_bytes(trainable_layout, plan.trainable_units.gather_dtype);
  const int64_t probe = plan.probe && !plan.probe_shares_weights
                            ? gathered_bytes(plan.train_base ? trainable_layout : frozen_layout,
                                             plan.probe_units.gather_dtype)
                            : 0;
  const double per_byte = residency_gib / static_cast<double>(frozen + trainable + probe);
  plan.frozen_units.residency_gib = per_byte * static_cast<double>(frozen);
  plan.trainable_units.residency_gib = per_byte * static_cast<double>(trainable);
  plan.probe_units.residency_gib = per_byte * static_cast<double>(probe);
}

}  // namespace

at::ScalarType compute_dtype_of(const ModelOptions& options) {
  return options.dtype == ModelDtype::kBf16 ? at::kBFloat16 : at::kFloat;
}

ModelPlan::ModelPlan(const ModelRequest& request, const model::Spec& spec,
                     const model::LoraSpec& lora)
    : train_base(request.train_base),
      frozen_placement(placement_of(request.shard, false, request.on_device)),
      trainable_placement(placement_of(request.shard, true, request.on_device)) {
  const at::ScalarType compute = compute_dtype_of(request.model);
  const auto make = [&](at::ScalarType type) {
    return model::make_model(spec, lora, train_base, type, request.device);
  };
  model = make(compute);
  probe_is_fp8 = request.probe_dtype == ProbeDtype::kFp8;
  probe_shares_weights = probe_is_fp8 && compute == at::kBFloat16;
  if (probe_is_fp8 || (request.probe_dtype == ProbeDtype::kBf16 && compute != at::kBFloat16))
    probe = make(at::kBFloat16);

  dist::ShardedUnitsOptions common{.prefetch = static_cast<int>(request.shard.prefetch),
                                   .held_at_once = model->held_together() ? 2 : 1,
                                   .device = request.device};
  const auto placed = [&common](const PlanePlacement& placement) {
    dist::ShardedUnitsOptions units = common;
    units.node_shared = placement.on_node;
    units.replicate = placement.keeps_all;
    return units;
  };
  // Frozen weights are stored as they are computed with, trainable ones have fp32 masters.
  common.shard_dtype = common.gather_dtype = compute;
  frozen_units = placed(frozen_placement);
  common.shard_dtype = at::kFloat;
  common.gather_dtype = train_base ? compute : at::kFloat;
  trainable_units = placed(trainable_placement);
  probe_units = train_base ? trainable_units : frozen_units;
  probe_units.gather_dtype = at::kBFloat16;
  divide_residency(request.shard.residency_gib, *this);
}

}  // namespace vax::train
