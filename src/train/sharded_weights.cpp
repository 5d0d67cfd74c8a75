#include "train/sharded_weights.h"

#include "base/error.h"

namespace vax::train {

void view_groups(const FlatUnit& unit, const at::Tensor& flat, model::UnitTensors& tensors) {
  for (const FlatGroup& group : unit.groups)
    tensors[static_cast<size_t>(group.role)] =
        flat.narrow(0, group.offset, group.count).view(group.shape);
}

ShardedWeights::ShardedWeights(Plane& frozen, Plane& trainable)
    : frozen_(frozen),
      trainable_(trainable),
      cached_(static_cast<size_t>(frozen.layout().num_model_units())) {
  VAX_CHECK(frozen.layout().num_model_units() == trainable.layout().num_model_units());
}

void ShardedWeights::acquire_plane(Plane& plane, int unit, const void*& data,
                                   model::UnitTensors& tensors) {
  const int index = plane.layout().index_of(unit);
  if (index < 0) return;
  const at::Tensor flat = plane.units().acquire(index);
  if (flat.const_data_ptr() == data) return;
  data = flat.const_data_ptr();
  view_groups(plane.layout().units()[static_cast<size_t>(index)], flat, tensors);
}

const model::UnitTensors& ShardedWeights::acquire(int unit) {
  Cached& cached = cached_[static_cast<size_t>(unit)];
  acquire_plane(frozen_, unit, cached.frozen_data, cached.tensors);
  acquire_plane(trainable_, unit, cached.trainable_data, cached.tensors);
  return cached.tensors;
}

void ShardedWeights::release(int unit) {
  for (Plane* plane : {&frozen_, &trainable_})
    if (const int index = plane->layout().index_of(unit); index >= 0) plane->units().release(index);
}

ShardedGradientSink::ShardedGradientSink(const Plane& trainable, dist::ShardedGradients& gradients)
    : plane_(trainable),
      gradients_(gradients),
      unit_gradients_(static_cast<size_t>(trainable.layout().num_model_units())),
      data_(unit_gradients_.size()) {}

model::UnitGradients& ShardedGradientSink::acquire(int unit) {
  const auto u = static_cast<size_t>(unit);
  model::UnitGradients& gradients = unit_gradients_[u];
  if (const int index = plane_.layout().index_of(unit); index >= 0) {
    const dist::GradientBuffer buffer = gradients_.acquire(index);
    gradients.accumulate = buffer.accumulate;
    if (buffer.flat.const_data_ptr() != data_[u]) {
      data_[u] = buffer.flat.const_data_ptr();
      view_groups(plane_.layout().units()[static_cast<size_t>(index)], buffer.flat,
                  gradients.tensors);
    }
  }
  return gradients;
}

void ShardedGradientSink::release(int unit) {
  if (const int index = plane_.layout().index_of(unit); index >= 0) gradients_.release(index);
}

}  // namespace vax::train
