// Which parameters a decoder has, unit by unit, under their names in the checkpoint.
#pragma once

#include "base/flat_layout.h"
#include "model/lora.h"
#include "model/spec.h"

namespace vax::model {

// Units: embedding, blocks, final norm + head. A tied head is not a parameter of its own.
FlatLayout base_layout(const Spec& spec);
// The same units; only blocks have LoRA factors. Without an adapter all units are empty.
FlatLayout lora_layout(const Spec& spec, const LoraSpec& lora);

}  // namespace vax::model
