// What a pass needs of memory beyond weights and gradients, counted from the shapes of the tensors
// that the decoder and its halves make; a test compares the count with what the allocator saw. The
// scratch that operators keep inside a call is in it where it grows with the tokens: attention on a
// device. (Elsewhere it is a few MiB a thread.)
#pragma once

#include <cstdint>

#include "model/decoder/block.h"
#include "model/model.h"

namespace vax::model {

// Most bytes that one forward and backward holds at a time. Where it is: at the head, or in the
// backward of the last block, when everything that was saved is still there.
int64_t activation_bytes(const Spec& spec, const BlockDims& dims, const PassShape& pass);

}  // namespace vax::model
