#include "support/memory_weights.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/narrow.h"
#include "base/philox.h"

namespace vax::testing {
namespace {

at::Tensor normal_values(const std::string& name, uint64_t seed, int64_t count) {
  at::Tensor values = at::empty({count}, at::kFloat);
  float* const data = values.data_ptr<float>();
  const PhiloxKey key = philox_key(seed, hash_name(name));
  for (int64_t i = 0; i < count; ++i) {
    const PhiloxCounter bits = philox4x32({narrow<uint32_t>(i), 0, 0, 0}, key);
    data[i] = normal_pair(bits[0], bits[1])[0];
  }
  return values;
}

bool is_norm(int role) {
  return role == model::kInputNorm || role == model::kPostNorm || role == model::kFinalNorm;
}

void fill_random(const FlatLayout& layout, const MemoryUnits& units, uint64_t seed, double scale) {
  for (const FlatUnit& unit : layout)
    for (const FlatGroup& group : unit.groups)
      for (const FlatMember& member : group.members) {
        const at::Tensor values = normal_values(member.name, seed, member.count);
        units.parameters()
            .at(member.name)
            .copy_((is_norm(group.role) ? 1 + 0.1 * values : scale * values).view(member.shape));
      }
}

at::ScalarType trainable_dtype(const model::Model& model) {
  return model.lora().enabled() ? at::kFloat : model.compute_dtype();
}

std::vector<std::string> names_of(const MemoryUnits& units) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : units.parameters()) names.push_back(name);
  return names;
}

}  // namespace

MemoryUnits::MemoryUnits(const FlatLayout& layout, at::ScalarType dtype) : layout_(layout) {
  for (const FlatUnit& unit : layout_) {
    flats_.push_back(at::zeros({unit.count}, dtype));
    for (const FlatGroup& group : unit.groups)
      for (const FlatMember& member : group.members)
        parameters_[member.name] =
            flats_.back().narrow(0, member.offset, member.count).view(member.shape);
  }
}

void MemoryUnits::view_groups(int unit, const at::Tensor& flat, model::UnitTensors& tensors) const {
  for (const FlatGroup& group : layout_[static_cast<size_t>(unit)].groups)
    tensors[static_cast<size_t>(group.role)] =
        flat.narrow(0, group.offset, group.count).view(group.shape);
}

MemoryWeights::MemoryWeights(const model::Model& model, uint64_t seed, double scale)
    : frozen_(model.frozen_layout(), model.compute_dtype()),
      trainable_(model.trainable_layout(), trainable_dtype(model)),
      slots_(static_cast<size_t>(model.num_units())) {
  fill_random(model.frozen_layout(), frozen_, seed, scale);
  fill_random(model.trainable_layout(), trainable_, seed, scale);
}

const model::UnitTensors& MemoryWeights::acquire(int unit) {
  Slot& slot = slots_.at(static_cast<size_t>(unit));
  VAX_CHECK(!slot.held, "unit ", unit, " is acquired twice");
  slot.held = true;
  slot.frozen = frozen_.flat(unit).clone();
  slot.trainable = trainable_.flat(unit).clone();
  frozen_.view_groups(unit, slot.frozen, slot.tensors);
  trainable_.view_groups(unit, slot.trainable, slot.tensors);
  acquired_.push_back(unit);
  return slot.tensors;
}

void MemoryWeights::release(int unit) {
  Slot& slot = slots_.at(static_cast<size_t>(unit));
  VAX_CHECK(slot.held, "unit ", unit, " is released but not held");
  slot.held = false;
  slot.frozen.fill_(std::numeric_limits<double>::quiet_NaN());
  slot.trainable.fill_(std::numeric_limits<double>::quiet_NaN());
}

at::Tensor MemoryWeights::parameter(const std::string& name) const {
  for (const MemoryUnits* units : {&frozen_, &trainable_})
    if (const auto found = units->parameters().find(name); found != units->parameters().end())
      return found->second;
  VAX_CHECK(false, "no parameter is called ", name);
  return {};
}

std::vector<std::string> MemoryWeights::names() const {
  std::vector<std::string> names = names_of(frozen_);
  std::ranges::copy(names_of(trainable_), std::back_inserter(names));
  return names;
}

int MemoryWeights::num_held() const {
  return static_cast<int>(std::ranges::count_if(slots_, &Slot::held));
}

MemoryGradients::MemoryGradients(const model::Model& model)
    : units_(model.trainable_layout(), at::kFloat),
      gradients_(static_cast<size_t>(model.num_units())),
      held_(gradients_.size()),
      written_(gradients_.size()) {
  for (int unit = 0; unit < units_.num_units(); ++unit)
    units_.view_groups(unit, units_.flat(unit), gradients_[static_cast<size_t>(unit)].tensors);
}

model::UnitGradients& MemoryGradients::acquire(int unit) {
  const auto u = static_cast<size_t>(unit);
  VAX_CHECK(!held_.at(u), "gradients of unit ", unit, " are acquired twice");
  held_[u] = true;
  model::UnitGradients& gradients = gradients_[u];
  gradients.accumulate = written_[u];
  if (!gradients.accumulate)
    for (at::Tensor& tensor : gradients.tensors)
      if (tensor.defined()) tensor.fill_(std::numeric_limits<double>::quiet_NaN());
  written_[u] = true;
  return gradients;
}

void MemoryGradients::release(int unit) {
  const auto u = static_cast<size_t>(unit);
  VAX_CHECK(held_.at(u), "gradients of unit ", unit, " are released but not held");
  held_[u] = false;
}

at::Tensor MemoryGradients::gradient(const std::string& name) const {
  const auto found = units_.parameters().find(name);
  VAX_CHECK(found != units_.parameters().end(), "no trainable parameter is called ", name);
  return found->second;
}

std::vector<std::string> MemoryGradients::names() const { return names_of(units_); }

void MemoryGradients::zero() {
  for (int unit = 0; unit < units_.num_units(); ++unit) units_.flat(unit).zero_();
  written_.assign(written_.size(), false);
}

int MemoryGradients::num_held() const { return static_cast<int>(std::ranges::count(held_, true)); }

}  // namespace vax::testing
