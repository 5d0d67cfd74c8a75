// A loaded model on this rank: the Llama, its weights as sharded planes, and the source that serves
// them. What every subcommand that runs a model starts from.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/options.h"
#include "io/peft_adapter.h"
#include "model/llama.h"
#include "train/base_weights.h"
#include "train/mesh.h"
#include "train/sharded_weights.h"

namespace vax::train {

// Which weights: the base with adapters merged, and what is on top of it.
struct ModelRequest {
  ModelOptions model;
  std::vector<std::string> merge;
  ShardOptions shard;
  bool train_base = false;                // full parameters: no adapter
  std::optional<AdapterOptions> adapter;  // a LoRA adapter; its init directory when given
  uint64_t seed = 0;                      // of a fresh adapter
};

// fp32 | bf16; "" = fp32 (the default of a CPU run).
at::ScalarType compute_dtype_of(const ModelOptions& options);

class ModelState {
 public:
  // Reads this rank's bytes. Everything is validated before the first large allocation.
  // COLLECTIVE over the mesh where weights are replicated. THROWS DataError, ConfigError.
  ModelState(const ModelRequest& request, Mesh& mesh);

  const model::Llama& llama() const { return *llama_; }
  Plane& frozen() { return *frozen_; }
  Plane& trainable() { return *trainable_; }
  ShardedWeights& weights() { return *weights_; }

  int64_t num_parameters() const;  // of the base
  int64_t num_trainable() const;
  double load_s() const { return load_s_; }

 private:
  std::unique_ptr<model::Llama> llama_;
  std::unique_ptr<Plane> frozen_, trainable_;
  std::unique_ptr<ShardedWeights> weights_;
  double load_s_ = 0;
};

}  // namespace vax::train
