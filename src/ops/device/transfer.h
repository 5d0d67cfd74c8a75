// Numbers on their way between the host and the device of this process. The host waits for the
// device in no other way than these: by what set_waiter() was given, which notices when the device
// waits for other ranks and they do not come. (Loading is an exception: nothing is under way then.)
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <functional>

namespace vax::ops::device {

// `waiter` BLOCKS host until the compute stream has done what it was given, and THROWS what went
// wrong meanwhile. Null: whatever reads waits by itself. Call before there are other threads.
void set_waiter(std::function<void()> waiter);

// Before the host reads `tensor`. Nothing for a tensor of the host.
void wait_for(const at::Tensor& tensor);

// BLOCKS host. A copy in host memory; a tensor of the host is returned as it is.
at::Tensor to_host(const at::Tensor& tensor);
// BLOCKS host. The only element.
double to_number(const at::Tensor& tensor);

// A copy of a host tensor on `device`, without waiting; on the CPU the tensor itself.
at::Tensor to_device(const at::Tensor& host, c10::Device device);

}  // namespace vax::ops::device
