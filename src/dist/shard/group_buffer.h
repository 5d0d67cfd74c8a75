// Private to this folder: tensors that a group moves, in its own memory where it has better than
// ordinary. All of one user lie in one allocation: such memory is registered with the group, and
// comes in units of megabytes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "dist/comm/collectives.h"

namespace vax::dist {

// [count] of each of the counts, uninitialised, on `device`, each 256-byte aligned where the memory
// is the group's. A tensor keeps the allocation alive. THROWS std::logic_error when the group does
// not serve memory of the device, CommError.
std::vector<at::Tensor> make_group_buffers(Collectives& group, const std::vector<int64_t>& counts,
                                           at::ScalarType type, at::Device device);

// THROWS std::logic_error when the group does not serve memory of the device.
void check_device(const Collectives& group, at::Device device);

}  // namespace vax::dist
