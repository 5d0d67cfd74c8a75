// Where this rank computes: runtime.device made into a device of this machine.
#pragma once

#include <c10/core/Device.h>

#include <optional>

#include "base/option_set.h"
#include "dist/device/device_group.h"

namespace vax::app {

struct ComputeDevice {
  c10::Device device = c10::kCPU;              // of tensors
  std::optional<dist::DeviceContext> context;  // of this rank; empty on a host
};

// For subcommands that run a model: where a GPU is to be used, runtime.device becomes "cuda" and
// model.dtype gets a GPU's default. The others compute on the host; `plan` takes the option's word.
// THROWS ConfigError when a GPU is asked for that cannot be had, or something that only a GPU does
// without one.
void choose_device(Options& options);

// After choose_device(): device local_rank modulo the devices of this machine. THROWS ConfigError.
ComputeDevice select_device(const Options& options, int local_rank);

}  // namespace vax::app
