// A model family that src/ does not know: a Llama with layer norms and a plain MLP (up, activation,
// down), biases here and there, names of its own, and a head that may be tied. What a family of
// other parts costs is this file pair.
#pragma once

#include <cstdint>
#include <filesystem>

#include "model/family.h"
#include "model/spec.h"
#include "support/tiny_llama.h"

namespace vax::testing {

// model_type "toy".
model::Family toy_family();

// The sizes of tiny_config(). `mlp`: kRelu or kGelu.
model::Spec toy_spec(bool tied = false, model::MlpKind mlp = model::MlpKind::kGelu);

// A model directory with tiny_tensors(base_layout(spec), seed).
void write_toy_model(const std::filesystem::path& directory, const model::Spec& spec,
                     uint64_t seed);

}  // namespace vax::testing
