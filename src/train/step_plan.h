// What a step of training needs, said before anything is allocated: memory of a rank by what it is
// for, bytes on the wire, and the schedule of gathers. The same functions of dist/ that cut and
// schedule the units of a run answer here, so that plan and run cannot differ.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dist/shard/sharding_plan.h"
#include "train/model_plan.h"
#include "train/placement.h"
#include "train/recording_engine.h"
#include "train/train_options.h"

namespace vax::train {

// Bytes of one rank. Of memory that a node's ranks share it has its part: the sum over the ranks is
// what the node holds.
struct MemoryParts {
  int64_t weights = 0;       // shards: frozen weights and the masters of trainable ones
  int64_t slots = 0;         // gathered units, casts and copies in fp8
  int64_t gradients = 0;     // shards and the buffers that they are reduced from
  int64_t optimizer = 0;     // AdamW's moments
  int64_t activations = 0;   // of the pass that needs most
  int64_t perturbation = 0;  // hidden-state gradients kept from pass 1 for pass 2
  int64_t vectors = 0;       // of the method, shaped like the shards of trainable weights
  int64_t drift = 0;         // hidden states that drift is measured against
  int64_t checkpoint = 0;    // copies that are written to checkpoints beside the training

  int64_t total() const;
};

// Calls visit(name, member) for every part, in order.
template <typename Parts, typename Visit>
void visit_memory(Parts& parts, Visit&& visit) {
  visit("weights", parts.weights);
  visit("slots", parts.slots);
  visit("gradients", parts.gradients);
  visit("optimizer", parts.optimizer);
  visit("activations", parts.activations);
  visit("perturbation", parts.perturbation);
  if (parts.vectors > 0) visit("vectors", parts.vectors);
  visit("drift", parts.drift);
  visit("checkpoint", parts.checkpoint);
}

// Bytes that one rank sends in one step, as CollectiveStatistics counts them, by the mesh's groups.
// What is a few numbers (losses, norms) is left out.
struct WireBytes {
  int64_t frozen = 0, trainable = 0, probe = 0;  // gathers
  int64_t reduce = 0, replicas = 0;              // gradients

  int64_t total() const { return frozen + trainable + probe + reduce + replicas; }
};

// What a rank is given of a stream in a step, at most.
struct Workload {
  int64_t num_micro_batches = 1;
  // Of the largest micro-batch.
  int64_t micro_rows = 1, micro_tokens = 0, micro_labels = 0;
  int64_t rank_tokens = 0;  // of all of them
};
// `lengths` in tokens of all rows, `labels` likewise; rows of a global batch are dealt as
// data::share_of does. The longest rows could meet in one micro-batch.
Workload workload_of(std::vector<int64_t> lengths, std::vector<int64_t> labels,
                     int64_t global_batch, std::optional<int64_t> micro_batch, int num_ranks);

struct PlanePlan {
  std::string name;  // frozen | trainable | probe
  std::vector<std::string> unit_names;
  dist::ShardingPlan units;  // of the first segment
  bool changes = false;      // every step begins with nothing gathered
};

struct StepPlan {
  MemoryParts memory;  // without drift
  WireBytes wire;      // of a step after the first
  std::vector<PlanePlan> planes;
};

// A step as the method was recorded on `workloads.size()` streams. THROWS ConfigError when the
// layout cannot be cut as `shard` asks.
StepPlan plan_step(const ModelPlan& model, const ShardOptions& shard, const Layout& layout,
                   const TrainOptions& train, const MethodDeclaration& method,
                   const Recording& recording, std::span<const Workload> workloads);

}  // namespace vax::train
