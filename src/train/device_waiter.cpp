#include "train/device_waiter.h"

#include "ops/device/transfer.h"

namespace vax::train {

DeviceWaiter::DeviceWaiter(const dist::Communicator& world, const dist::DeviceContext* device) {
  if (device == nullptr) return;
  ops::device::set_waiter([&world, context = *device] { dist::synchronize(world, context); });
}

DeviceWaiter::~DeviceWaiter() { ops::device::set_waiter(nullptr); }

}  // namespace vax::train
