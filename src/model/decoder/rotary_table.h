// The angles of the rotary embedding, by position and frequency. SHAPES as in model/model.h, P
// positions.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "model/spec.h"

namespace vax::model {

struct RotaryTable {
  at::Tensor cos_PK, sin_PK;  // [positions, K / 2] fp32
};
RotaryTable rotary_table(const Spec& spec, at::Device device);

// Inverse frequencies [K / 2] with scaling applied, as transformers computes them (in fp32 steps).
std::vector<float> rotary_frequencies(const Spec& spec);

}  // namespace vax::model
