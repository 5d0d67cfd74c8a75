// A plane: the frozen or the trainable part of a model's units. Some units have no parameters in
// it; those that have are numbered through and sharded on their own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/flat_layout.h"
#include "dist/comm/collectives.h"
#include "dist/shard/sharded_units.h"
#include "model/model.h"

namespace vax::train {

// Which units a plane has; all that can be said of it without ranks.
class PlaneLayout {
 public:
  explicit PlaneLayout(const FlatLayout& model_units);

  // Of the units that are in the plane, by their places in it.
  const FlatLayout& units() const { return units_; }
  std::vector<int64_t> counts() const;  // elements
  // The place of a unit of the model, or -1 where it has no parameters here.
  int index_of(int model_unit) const { return index_.at(static_cast<size_t>(model_unit)); }
  int num_model_units() const { return static_cast<int>(index_.size()); }
  // Places of those of `model_units` that are in the plane.
  std::vector<int> indices_of(const std::vector<int>& model_units) const;
  // Uses of the model's units in order, as events of the units in the plane.
  std::vector<dist::UnitEvent> events_of(const std::vector<int>& model_unit_uses,
                                         std::optional<model::HeldUnits> held_together) const;

 private:
  FlatLayout units_;
  std::vector<int> index_;  // by unit of the model
};

class Plane {
 public:
  // COLLECTIVE over options.node where that is set.
  Plane(const FlatLayout& model_units, dist::Collectives& group,
        const dist::ShardedUnitsOptions& options);
  // The same shards as `owner`'s, gathered in another type, over a group of the same ranks.
  Plane(Plane& owner, dist::Collectives& group, const dist::ShardedUnitsOptions& options);

  const PlaneLayout& layout() const { return layout_; }
  dist::ShardedUnits& units() { return *units_; }
  const dist::ShardedUnits& units() const { return *units_; }
  dist::Collectives& group() { return group_; }

 private:
  PlaneLayout layout_;
  dist::Collectives& group_;
  std::unique_ptr<dist::ShardedUnits> units_;
};

}  // namespace vax::train
