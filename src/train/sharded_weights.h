// Joins sharded units to the model: hands out weights as views of gathered units, and gradient
// buffers as views of flat ones. A unit of the model has a frozen and a trainable part, either of
// which may be empty; both are gathered on acquire().
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <vector>

#include "base/flat_layout.h"
#include "dist/shard/sharded_units.h"
#include "model/weights.h"
#include "train/step_method.h"

namespace vax::train {

// One plane (frozen or trainable) of a model's units: those that have parameters there, sharded.
class Plane {
 public:
  // COLLECTIVE over options.node where that is set.
  Plane(const FlatLayout& layout, dist::Collectives& group,
        const dist::ShardedUnitsOptions& options);
  // The same shards as `owner`'s, gathered in another type, over a group of the same ranks.
  Plane(Plane& owner, dist::Collectives& group, const dist::ShardedUnitsOptions& options);

  const FlatLayout& layout() const { return layout_; }
  // Index into units(), or -1 where the unit has no parameters here.
  int index_of(int unit) const { return index_[static_cast<size_t>(unit)]; }
  int num_layout_units() const { return static_cast<int>(index_.size()); }
  FlatLayout unit_layout() const;            // of the units in units()
  std::vector<int64_t> unit_counts() const;  // elements, of the same
  dist::ShardedUnits& units() { return *units_; }
  const dist::ShardedUnits& units() const { return *units_; }
  dist::Collectives& group() { return group_; }

  // Uses of the model's units in order; `nesting` in the model's units too.
  void begin_step(const std::vector<int>& unit_uses, std::optional<dist::Nesting> nesting);
  // The same as events of the units in units().
  std::vector<dist::UnitEvent> events_of(const std::vector<int>& unit_uses,
                                         std::optional<dist::Nesting> nesting) const;

 private:
  FlatLayout layout_;
  dist::Collectives& group_;
  std::vector<int> index_;
  std::unique_ptr<dist::ShardedUnits> units_;
};

// Views of a unit's groups in a flat tensor, set in `tensors` by role.
void view_groups(const FlatUnit& unit, const at::Tensor& flat, model::UnitTensors& tensors);

class ShardedWeights : public model::WeightSource {
 public:
  // Borrows the planes. `nesting`: the units that are held together, where there are such (a tied
  // head inside which the embedding is acquired).
  ShardedWeights(Plane& frozen, Plane& trainable, std::optional<dist::Nesting> nesting);

  Plane& frozen() { return frozen_; }
  Plane& trainable() { return trainable_; }
  std::optional<dist::Nesting> nesting() const { return nesting_; }
  const model::UnitTensors& acquire(int unit) override;
  void release(int unit) override;

 private:
  struct Cached {
    model::UnitTensors tensors;
    // The flat tensors that the views were made of; made anew only when the memory has changed.
    const void* frozen_data = nullptr;
    const void* trainable_data = nullptr;
  };
  static void acquire_plane(Plane& plane, int unit, const void*& data, model::UnitTensors& tensors);

  Plane& frozen_;
  Plane& trainable_;
  std::optional<dist::Nesting> nesting_;
  std::vector<Cached> cached_;
};

// Announces the uses of the coming step in order, to every plane those in which it takes part.
// `probe` may be `update` itself, or share a plane with it. COLLECTIVE in effect.
void begin_step(ShardedWeights& update, ShardedWeights& probe, const std::vector<UnitUse>& uses);
// One source alone (Model::unit_uses).
void begin_step(ShardedWeights& weights, const std::vector<int>& unit_uses);

class ShardedGradientSink : public model::GradientSink {
 public:
  // Borrows both. `gradients` has one unit per unit of the plane.
  ShardedGradientSink(const Plane& trainable, dist::ShardedGradients& gradients);

  model::UnitGradients& acquire(int unit) override;
  void release(int unit) override;

 private:
  const Plane& plane_;
  dist::ShardedGradients& gradients_;
  std::vector<model::UnitGradients> unit_gradients_;
  std::vector<const void*> data_;
};

}  // namespace vax::train
