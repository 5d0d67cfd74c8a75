// Private to this folder: collectives of device memory for a group of one rank. Operations are
// copies on the consumer's stream itself.
#pragma once

#include <memory>

#include "dist/comm/collectives.h"
#include "dist/device/device_group.h"

namespace vax::dist {

std::unique_ptr<Collectives> make_device_self_collectives(const DeviceContext& device);

}  // namespace vax::dist
