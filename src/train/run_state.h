// The state of a run as arrays that lie sharded over the ranks: weights and the optimizer's
// moments, unit by unit. What a checkpoint stores and what it restores go over the same list.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint_reader.h"
#include "train/training_engine.h"

namespace vax::train {

// One quantity of one unit, as this rank has it.
struct StateArray {
  std::string_view plane;  // "trainable" | "frozen"
  std::string kind;        // io::kParameters ...
  const FlatUnit* unit;
  int unit_index;  // within the plane
  dist::Partition partition;
  int slice = 0;     // this rank's place in the shard group
  at::Tensor shard;  // [shard_count], a view of the state; its padding is not part of the array

  int64_t num_elements() const { return partition.end - partition.begin; }
};

// All arrays in the same order on every rank: the trainable plane's units with their moments and
// the method's vectors that are state, then, unless adapter_only, the frozen plane's.
std::vector<StateArray> state_arrays(TrainingEngine& engine, bool adapter_only);

// Overwrites weights, moments and the method's state with those of a checkpoint that was written by
// any number of ranks, and the number of updates with its step. Frozen weights are read where the
// checkpoint has them. Each rank reads its own bytes; no communication: REQUIRES
// state().begin_update() before, and state().publish() after it. THROWS DataError when names,
// shapes or types are not the run's (nothing is changed then), or when reading fails.
void read_state(const io::CheckpointReader& checkpoint, TrainingEngine& engine);

}  // namespace vax::train
