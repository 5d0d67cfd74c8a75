#include "train/sharded_weights.h"

#include <algorithm>

#include "base/error.h"

namespace vax::train {
Plane::Plane(const FlatLayout& layout, dist::Collectives& group,
             const dist::ShardedUnitsOptions& options)
    : layout_(layout), group_(group) {
  int next = 0;
  for (const FlatUnit& unit : layout_) index_.push_back(unit.count > 0 ? next++ : -1);
  units_ = std::make_unique<dist::ShardedUnits>(group, unit_counts(), options);
}

Plane::Plane(Plane& owner, dist::Collectives& group, const dist::ShardedUnitsOptions& options)
    : layout_(owner.layout_), group_(group), index_(owner.index_) {
  units_ = std::make_unique<dist::ShardedUnits>(group, owner.units(), options);
}

FlatLayout Plane::unit_layout() const {
  FlatLayout units;
  for (const FlatUnit& unit : layout_)
    if (unit.count > 0) units.push_back(unit);
  return units;
}

std::vector<int64_t> Plane::unit_counts() const {
  std::vector<int64_t> counts;
  for (const FlatUnit& unit : layout_)
    if (unit.count > 0) counts.push_back(unit.count);
  return counts;
}

std::vector<dist::UnitEvent> Plane::events_of(const std::vector<int>& unit_uses,
                                              std::optional<dist::Nesting> nesting) const {
  std::vector<int> own;
  for (const int unit : unit_uses)
    if (index_of(unit) >= 0) own.push_back(index_of(unit));
  std::optional<dist::Nesting> own_nesting;
  if (nesting && index_of(nesting->outer) >= 0 && index_of(nesting->inner) >= 0)
    own_nesting = {.outer = index_of(nesting->outer), .inner = index_of(nesting->inner)};
  return dist::unit_events(own, own_nesting);
}

void Plane::begin_step(const std::vector<int>& unit_uses, std::optional<dist::Nesting> nesting) {
  units_->begin_step(events_of(unit_uses, nesting));
}

void view_groups(const FlatUnit& unit, const at::Tensor& flat, model::UnitTensors& tensors) {
  for (const FlatGroup& group : unit.groups)
    tensors[static_cast<size_t>(group.role)] =
        flat.narrow(0, group.offset, group.count).view(group.shape);
}

ShardedWeights::ShardedWeights(Plane& frozen, Plane& trainable,
                               std::optional<dist::Nesting> nesting)
    : frozen_(frozen),
      trainable_(trainable),
      nesting_(nesting),
      cached_(static_cast<size_t>(frozen.num_layout_units())) {
  VAX_CHECK(frozen.num_layout_units() == trainable.num_layout_units());
}

void ShardedWeights::acquire_plane(Plane& plane, int unit, const void*& data,
                                   model::UnitTensors& tensors) {
  const int index = plane.index_of(unit);
  if (index < 0) return;
  const at::Tensor flat = plane.units().acquire(index);
  if (flat.const_data_ptr() == data) return;
  data = flat.const_data_ptr();
  view_groups(plane.layout()[static_cast<size_t>(unit)], flat, tensors);
}

const model::UnitTensors& ShardedWeights::acquire(int unit) {
  Cached& cached = cached_[static_cast<size_t>(unit)];
  acquire_plane(frozen_, unit, cached.frozen_data, cached.tensors);
  acquire_plane(trainable_, unit, cached.trainable_data, cached.tensors);
  return cached.tensors;
}

void ShardedWeights::release(int unit) {
  for (Plane* plane : {&frozen_, &trainable_})
    if (const int index = plane->index_of(unit); index >= 0) plane->units().release(index);
}

void begin_step(ShardedWeights& update, ShardedWeights& probe, const std::vector<UnitUse>& uses) {
  const auto takes_part = [](ShardedWeights& source, const Plane& plane) {
    return &source.frozen() == &plane || &source.trainable() == &plane;
  };
  std::vector<Plane*> planes;
  for (Plane* plane : {&update.frozen(), &update.trainable(), &probe.frozen(), &probe.trainable()})
    if (std::ranges::find(planes, plane) == planes.end()) planes.push_back(plane);
  for (Plane* plane : planes) {
    std::vector<int> units;
    for (const UnitUse& use : uses)
      if (takes_part(use.probe ? probe : update, *plane)) units.push_back(use.unit);
    plane->begin_step(units, update.nesting());
  }
}

void begin_step(ShardedWeights& weights, const std::vector<int>& unit_uses) {
  std::vector<UnitUse> uses;
  for (const int unit : unit_uses) uses.push_back({.unit = unit});
  begin_step(weights, weights, uses);
}

ShardedGradientSink::ShardedGradientSink(const Plane& trainable, dist::ShardedGradients& gradients)
    : plane_(trainable),
      gradients_(gradients),
      unit_gradients_(trainable.layout().size()),
      data_(trainable.layout().size()) {}

model::UnitGradients& ShardedGradientSink::acquire(int unit) {
  const auto u = static_cast<size_t>(unit);
  model::UnitGradients& gradients = unit_gradients_[u];
  if (const int index = plane_.index_of(unit); index >= 0) {
    const dist::GradientBuffer buffer = gradients_.acquire(index);
    gradients.accumulate = buffer.accumulate;
    if (buffer.flat.const_data_ptr() != data_[u]) {
      data_[u] = buffer.flat.const_data_ptr();
      view_groups(plane_.layout()[u], buffer.flat, gradients.tensors);
    }
  }
  return gradients;
}

void ShardedGradientSink::release(int unit) {
  if (const int index = plane_.index_of(unit); index >= 0) gradients_.release(index);
}

}  // namespace vax::train
