// A model's weights and gradients in plain memory, for tests: random values that are a function of
// seed and parameter name, every tensor to be had by its checkpoint name.
// MemoryWeights is stricter than a source needs to be: acquire() hands out copies that release()
// fills with NaN, so code that keeps a view of a weight beyond its release computes NaN; an acquire
// of a unit that is held, or a release of one that is not, THROWS std::logic_error. So does
// MemoryGradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/flat_layout.h"
#include "model/model.h"
#include "model/weights.h"

namespace vax::testing {

// Flat buffers of a layout's units with views of their groups and members.
class MemoryUnits {
 public:
  // All zero.
  MemoryUnits(const FlatLayout& layout, at::ScalarType dtype);

  int num_units() const { return static_cast<int>(flats_.size()); }
  at::Tensor& flat(int unit) { return flats_[static_cast<size_t>(unit)]; }
  // Views of `flat`, a buffer of this unit's size, set in `tensors` by role.
  void view_groups(int unit, const at::Tensor& flat, model::UnitTensors& tensors) const;
  // Views by checkpoint name.
  const std::map<std::string, at::Tensor>& parameters() const { return parameters_; }

 private:
  FlatLayout layout_;
  std::vector<at::Tensor> flats_;
  std::map<std::string, at::Tensor> parameters_;
};

// Frozen and trainable weights of a model: base parameters of its compute type, LoRA factors fp32.
class MemoryWeights : public model::WeightSource {
 public:
  // Norm weights 1 + 0.1 N(0, 1), everything else (biases and lora_B too) scale * N(0, 1).
  MemoryWeights(const model::Model& model, uint64_t seed, double scale);

  const model::UnitTensors& acquire(int unit) override;
  void release(int unit) override;

  // By checkpoint name; what is written to it counts from the next acquire on. THROWS
  // std::logic_error for an unknown name.
  at::Tensor parameter(const std::string& name) const;
  std::vector<std::string> names() const;

  // The units acquired so far, in order.
  const std::vector<int>& acquired() const { return acquired_; }
  void clear_acquired() { acquired_.clear(); }
  int num_held() const;

 private:
  struct Slot {
    bool held = false;
    at::Tensor frozen, trainable;  // flat copies
    model::UnitTensors tensors;
  };

  MemoryUnits frozen_, trainable_;
  std::vector<Slot> slots_;
  std::vector<int> acquired_;
};

// fp32 gradients of a model's trainable parameters, zero at first. The first acquire of a unit
// hands out NaN to be written, later ones the sum to be added to.
class MemoryGradients : public model::GradientSink {
 public:
  explicit MemoryGradients(const model::Model& model);

  model::UnitGradients& acquire(int unit) override;
  void release(int unit) override;

  at::Tensor gradient(const std::string& name) const;
  std::vector<std::string> names() const;
  void zero();
  int num_held() const;

 private:
  MemoryUnits units_;
  std::vector<model::UnitGradients> gradients_;
  std::vector<bool> held_, written_;
};

}  // namespace vax::testing
