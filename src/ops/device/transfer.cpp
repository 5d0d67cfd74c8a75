#include "ops/device/transfer.h"

#include <ATen/ATen.h>

#include <utility>

#include "ops/device/runtime.h"

namespace vax::ops::device {
namespace {

std::function<void()>& waiter_of_process() {
  static std::function<void()> waiter;
  return waiter;
}

}  // namespace

void set_waiter(std::function<void()> waiter) { waiter_of_process() = std::move(waiter); }

void wait_for(const at::Tensor& tensor) {
  if (!tensor.device().is_cpu() && waiter_of_process()) waiter_of_process()();
}

at::Tensor to_host(const at::Tensor& tensor) {
  wait_for(tensor);
  return tensor.cpu();
}

double to_number(const at::Tensor& tensor) {
  wait_for(tensor);
  return tensor.item<double>();
}

at::Tensor to_device(const at::Tensor& host, c10::Device device) {
  if (device.is_cpu()) return host;
  const at::Tensor pinned = pinned_empty(host.sizes(), host.scalar_type());
  pinned.copy_(host);
  return pinned.to(device, /*non_blocking=*/true);
}

}  // namespace vax::ops::device
