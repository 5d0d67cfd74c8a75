// Which model a run asks for and how its planes are stored: all that can be said without weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dist/shard/sharding_plan.h"
#include "model/model.h"
#include "train/model_options.h"
#include "train/placement.h"
#include "train/shard_options.h"

namespace vax::train {

// Which weights: the base with adapters merged, and what is on top of it.
struct ModelRequest {
  ModelOptions model;
  std::vector<std::string> merge;
  ShardOptions shard;
  bool train_base = false;                     // full parameters: no adapter
  std::optional<AdapterOptions> adapter;       // a LoRA adapter; its init directory when given
  uint64_t seed = 0;                           // of a fresh adapter
  ProbeDtype probe_dtype = ProbeDtype::kSame;  // of passes on the probe's weights
  at::Device device = at::kCPU;                // where weights lie and everything is computed
  bool on_device = false;                      // a GPU, which shares no memory with other ranks
};

// The default of a CPU run is fp32.
at::ScalarType compute_dtype_of(const ModelOptions& options);

struct ModelPlan {
  // THROWS ConfigError for a placement that the device does not have.
  ModelPlan(const ModelRequest& request, const model::Spec& spec, const model::LoraSpec& lora);

  bool train_base;
  std::unique_ptr<model::Model> model;
  std::unique_ptr<model::Model> probe;  // null: its passes have the update's precision
  // The probe computes with the weights' type: it needs no copies of them but those that fp8 makes.
  bool probe_shares_weights = false;
  bool probe_is_fp8 = false;
  PlanePlacement frozen_placement, trainable_placement;
  // Without Communicators; node_shared by the placement. `probe_units` is of the copied plane.
  dist::ShardedUnitsOptions frozen_units, trainable_units, probe_units;
};

}  // namespace vax::train
