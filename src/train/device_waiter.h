// How the host of a run waits for its device.
#pragma once

#include "dist/comm/communicator.h"
#include "dist/device/device_group.h"

namespace vax::train {

// As long as it lives, what reads from the device (ops/device/transfer.h) waits by
// dist::synchronize(): failures and hangs of all groups are noticed. `world` must live as long;
// `device` null: a host, nothing to wait for.
class DeviceWaiter {
 public:
  DeviceWaiter(const dist::Communicator& world, const dist::DeviceContext* device);
  DeviceWaiter(const DeviceWaiter&) = delete;
  DeviceWaiter& operator=(const DeviceWaiter&) = delete;
  ~DeviceWaiter();
};

}  // namespace vax::train
