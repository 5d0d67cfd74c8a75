// A loaded model on this rank: the model, its weights as sharded planes, and the source that serves
// them; where asked for, a second pair of them for a probe of lower precision. What every
// subcommand that runs a model starts from.
//
// Loading has steps of two kinds, so that a rank that cannot read its files never leaves others
// waiting: those that read do not communicate, those that communicate do not read.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/peft_adapter.h"
#include "model/model.h"
#include "train/base_weights.h"
#include "train/mesh.h"
#include "train/model_plan.h"
#include "train/pass_engine.h"
#include "train/sharded_weights.h"

namespace vax::train {

class ModelState {
 public:
  // Opens and checks everything, allocates nothing large. THROWS DataError, ConfigError.
  ModelState(const ModelRequest& request, const model::Spec& spec);
  // Without files: the shards are written by whoever allocates, before publish().
  explicit ModelState(ModelPlan plan);
  // Makes the planes, ready to be written. COLLECTIVE over the mesh.
  void allocate(Mesh& mesh);
  // Reads this rank's bytes. REQUIRES files. THROWS DataError.
  void read();
  // Makes what was written visible to the other ranks. COLLECTIVE over the mesh.
  void publish();
  // The shards may be written once more, until the next publish(). REQUIRES nothing held.
  // COLLECTIVE over the mesh.
  void begin_update();
  // All of these one after another, for who need not agree on errors. COLLECTIVE.
  static std::unique_ptr<ModelState> load(const ModelRequest& request, const model::Spec& spec,
                                          Mesh& mesh);

  const ModelPlan& plan() const { return plan_; }
  const model::Model& model() const { return *plan_.model; }
  Plane& frozen() { return *frozen_; }
  const Plane& frozen() const { return *frozen_; }
  Plane& trainable() { return *trainable_; }
  const Plane& trainable() const { return *trainable_; }
  ShardedWeights& weights() { return *weights_; }
  PassModel update_model() { return {.model = *plan_.model, .weights = *weights_}; }
  // The update's without a probe of its own.
  PassModel probe_model();
  const Plane* probe_plane() const { return probe_plane_.get(); }
  // Of the copies of weights that a probe in fp8 keeps.
  int64_t fp8_bytes() const { return plan_.probe ? plan_.probe->fp8_bytes() : 0; }

  // Announces the uses of a step to all planes; its segments part where trainable weights change
  // (Recording). Planes that change are told the first segment alone. Empty: nothing is announced,
  // every acquire gathers on demand. COLLECTIVE in effect.
  void begin_step(const std::vector<std::vector<UnitUse>>& segments);
  // The trainable weights have changed within the step: the uses until they change again.
  void begin_segment(const std::vector<UnitUse>& uses);
  // The units that the update's model acquires without a backward, once: a pass of evaluation.
  void begin_forward();
  // The trainable shards have been updated: the probe's copies of them, where it has such, are
  // stale. COLLECTIVE.
  void refresh_probe();

  // Buffers that units are gathered into, of all planes.
  int num_slots() const;
  int64_t num_parameters() const;  // of the base
  int64_t num_trainable() const;
  double load_s() const { return load_s_; }

 private:
  ModelState(const ModelRequest& request, const model::Spec& spec,
             std::optional<io::PeftAdapter> initial);
  // The planes that change within a step, or those that do not.
  std::vector<Plane*> planes(bool changing);
  void announce(const std::vector<Plane*>& planes, const std::vector<UnitUse>& uses);

  // What weights are read from: base, adapter, and how the adapter begins without one.
  std::unique_ptr<BaseWeights> base_;  // until everything is read
  std::optional<io::PeftAdapter> initial_;
  std::string initial_directory_;
  uint64_t seed_ = 0;
  ModelPlan plan_;
  std::unique_ptr<Plane> frozen_, trainable_, probe_plane_;
  std::unique_ptr<ShardedWeights> weights_, probe_weights_;
  double load_s_ = 0;
};

}  // namespace vax::train
