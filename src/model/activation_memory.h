// What a pass needs of memory beyond weights and gradients, counted from the shapes of the tensors
// that llama.cpp and the halves make; a test compares the count with what the allocator saw. The
// scratch that operators keep inside a call is in it where it grows with the tokens: attention on a
// device. (Elsewhere it is a few MiB a thread.)
#pragma once

#include <cstdint>

#include "model/llama.h"

namespace vax::model {

struct PassShape {
  int64_t num_tokens = 0;
  int64_t num_labels = 0;
  bool weight_gradients = true;  // false: a probe
  bool recompute = false;
  int64_t num_sequences = 1;
  bool on_device = false;  // a GPU's operators
};

// Most bytes that one forward and backward holds at a time. Where it is: at the head, or in the
// backward of the last block, when everything that was saved is still there.
int64_t activation_bytes(const Llama& llama, const PassShape& pass);

}  // namespace vax::model
