// For programs without device support.
#include "base/error.h"
#include "dist/device/device_group.h"

namespace vax::dist {

std::unique_ptr<Collectives> make_device_collectives(const Communicator&, const DeviceContext&,
                                                     const std::string& purpose,
                                                     const DeviceGroupOptions&) {
  throw ConfigError(cat("no device can serve the group ", purpose,
                        ": this program is compiled without CUDA (VAX_WITH_CUDA=ON)"));
}

void synchronize(const Communicator&, const DeviceContext&) {
  throw ConfigError("there is no device to wait for: this program is compiled without CUDA");
}

}  // namespace vax::dist
