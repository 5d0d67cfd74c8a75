// A loaded model on this rank: the model, its weights as sharded planes, and the source that serves
// them; where asked for, a second pair of them for a probe of lower precision. What every
// subcommand that runs a model starts from.
//
// Loading has steps of two kinds, so that a rank that cannot read its files never leaves others
// waiting: those that read do not communicate, those that communicate do not read.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/peft_adapter.h"
#include "model/model.h"
#include "train/base_weights.h"
#include "train/mesh.h"
#include "train/model_options.h"
#include "train/shard_options.h"
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
  ProbeDtype probe_dtype = ProbeDtype::kSame;
  at::Device device = at::kCPU;  // where weights lie and everything is computed
  bool on_device = false;        // a GPU, which shares no memory with other ranks
};

// kDefault is fp32: choose_device() has put bf16 there for a GPU.
at::ScalarType compute_dtype_of(const ModelOptions& options);

// A request's model and how its planes are stored: all that can be said without weights.
struct ModelPlan {
  ModelPlan(const ModelRequest& request, const model::Spec& spec, const model::LoraSpec& lora);

  bool train_base;
  std::unique_ptr<model::Model> model;
  std::unique_ptr<model::Model> probe;  // null: pass 1 has the update's precision
  // The probe computes with the weights' type: it needs no copies of them but those that fp8 makes.
  bool probe_shares_weights = false;
  bool probe_is_fp8 = false;
  std::optional<dist::Nesting> nesting;
  // Without Communicators; node_shared by the placement. `probe_units` is of the copied plane.
  dist::ShardedUnitsOptions frozen_units, trainable_units, probe_units;
};

class ModelState {
 public:
  // Opens and checks everything, allocates nothing large. THROWS DataError, ConfigError.
  explicit ModelState(const ModelRequest& request);
  // Makes the planes, ready to be written. COLLECTIVE over the mesh.
  void allocate(Mesh& mesh);
  // Reads this rank's bytes. THROWS DataError.
  void read();
  // Makes what was read visible to the other ranks. COLLECTIVE over the mesh.
  void publish();
  // The shards may be written once more, until the next publish(). REQUIRES nothing held.
  // COLLECTIVE over the mesh.
  void begin_update();
  // All of these one after another, for who need not agree on errors. COLLECTIVE.
  static ModelState load(const ModelRequest& request, Mesh& mesh);

  const ModelPlan& plan() const { return plan_; }
  const model::Model& model() const { return *plan_.model; }
  Plane& frozen() { return *frozen_; }
  Plane& trainable() { return *trainable_; }
  ShardedWeights& weights() { return *weights_; }
  PassModel update_model() { return {.model = *plan_.model, .weights = *weights_}; }
  // The update's without a probe of its own.
  PassModel probe_model();
  const Plane* probe_plane() const { return probe_plane_.get(); }
  // Of the copies of weights that a probe in fp8 keeps.
  int64_t fp8_bytes() const { return plan_.probe ? plan_.probe->fp8_bytes() : 0; }

  // Announces the uses of a step to all planes.
  void begin_step(const std::vector<UnitUse>& uses);
  // The trainable shards have been updated: the probe's copies of them, where it has such, are
  // stale. COLLECTIVE.
  void refresh_probe();

  // Buffers that units are gathered into, of all planes.
  int num_slots() const;
  int64_t num_parameters() const;  // of the base
  int64_t num_trainable() const;
  double load_s() const { return load_s_; }

 private:
  ModelState(const ModelRequest& request, std::optional<io::PeftAdapter> initial);

  ModelRequest request_;
  std::optional<io::PeftAdapter> initial_;
  ModelPlan plan_;
  std::unique_ptr<BaseWeights> base_;  // until everything is read
  std::unique_ptr<Plane> frozen_, trainable_, probe_plane_;
  std::unique_ptr<ShardedWeights> weights_, probe_weights_;
  double load_s_ = 0;
};

}  // namespace vax::train
