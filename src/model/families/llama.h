// Llama, Llama-2, Llama-3 and what has their shape (Vicuna): RMS norms, rotary positions, a gated
// MLP with SiLU, queries that may share keys. Both layouts of the rotary settings are read:
// rope_theta and rope_scaling at the top (transformers 4), rope_parameters (transformers 5).
#pragma once

#include "model/family.h"

namespace vax::model {

Family llama_family();
ModuleNames llama_names();

}  // namespace vax::model
