// Joins sharded units to the model: hands out weights as views of gathered units, and gradient
// buffers as views of flat ones. A unit of the model has a frozen and a trainable part, either of
// which may be empty; both are gathered on acquire().
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "base/flat_layout.h"
#include "dist/shard/sharded_units.h"
#include "model/weights.h"
#include "train/plane.h"

namespace vax::train {

// One use of a unit's weights: by the passes on the update's weights, or by those on the probe's.
struct UnitUse {
  int unit;
  bool probe = false;
  bool operator==(const UnitUse&) const = default;
};

// Views of a unit's groups in a flat tensor, set in `tensors` by role.
void view_groups(const FlatUnit& unit, const at::Tensor& flat, model::UnitTensors& tensors);

class ShardedWeights : public model::WeightSource {
 public:
  // Borrows the planes.
  ShardedWeights(Plane& frozen, Plane& trainable);

  Plane& frozen() { return frozen_; }
  Plane& trainable() { return trainable_; }
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
  std::vector<Cached> cached_;
};

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
