// Private to this folder: device memory, a group of one rank. Operations are copies on the
// consumer's stream itself.
#pragma once

#include <memory>

#include "dist/comm/backend.h"
#include "dist/device/device_group.h"

namespace vax::dist {

std::unique_ptr<Backend> make_cuda_self_backend(const DeviceContext& device);

}  // namespace vax::dist
