#include "train/plane.h"

namespace vax::train {

PlaneLayout::PlaneLayout(const FlatLayout& model_units) {
  for (const FlatUnit& unit : model_units) {
    index_.push_back(unit.count > 0 ? static_cast<int>(units_.size()) : -1);
    if (unit.count > 0) units_.push_back(unit);
  }
}

std::vector<int64_t> PlaneLayout::counts() const {
  std::vector<int64_t> counts;
  for (const FlatUnit& unit : units_) counts.push_back(unit.count);
  return counts;
}

std::vector<int> PlaneLayout::indices_of(const std::vector<int>& model_units) const {
  std::vector<int> own;
  for (const int unit : model_units)
    if (const int index = index_of(unit); index >= 0) own.push_back(index);
  return own;
}

std::vector<dist::UnitEvent> PlaneLayout::events_of(
    const std::vector<int>& model_unit_uses, std::optional<model::HeldUnits> held_together) const {
  std::optional<dist::Nesting> own;
  if (held_together && index_of(held_together->outer) >= 0 && index_of(held_together->inner) >= 0)
    own = {.outer = index_of(held_together->outer), .inner = index_of(held_together->inner)};
  return dist::unit_events(indices_of(model_unit_uses), own);
}

Plane::Plane(const FlatLayout& model_units, dist::Collectives& group,
             const dist::ShardedUnitsOptions& options)
    : layout_(model_units), group_(group) {
  units_ = std::make_unique<dist::ShardedUnits>(group, layout_.counts(), options);
}

Plane::Plane(Plane& owner, dist::Collectives& group, const dist::ShardedUnitsOptions& options)
    : layout_(owner.layout_), group_(group) {
  units_ = std::make_unique<dist::ShardedUnits>(group, owner.units(), options);
}

}  // namespace vax::train
