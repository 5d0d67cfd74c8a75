// The stand-in's device as LibTorch sees it: device type PrivateUse1, index 0. Its tensors lie in
// device memory (memory.h). LibTorch's operators work on them through those of the CPU, and refuse
// what they refuse on CUDA: operands on two devices, and in a capture whatever makes the host wait
// or reads ordinary memory of the host.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace standin {

constexpr c10::DeviceType kDeviceType = c10::DeviceType::PrivateUse1;
inline c10::Device the_device() { return {kDeviceType, 0}; }

// The same memory as a CPU tensor, for device code (submit(), DeviceCode). It does not keep the
// memory alive. Undefined tensors and those of the CPU stay as they are.
at::Tensor for_device_code(const at::Tensor& tensor);

// Memory of the host that copies to the device do not wait for.
at::Tensor pinned_empty(at::IntArrayRef sizes, at::ScalarType type);

}  // namespace standin
