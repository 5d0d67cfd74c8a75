// Which implementation serves a group: every rank tells the others its device, and all decide from
// the same list.
#include <array>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "dist/comm/device_registry.h"
#include "dist/comm/environment.h"
#include "dist/device/cuda_handle.h"
#include "dist/device/cuda_self_backend.h"
#include "dist/device/cuda_staged_backend.h"
#include "dist/device/device_group.h"
#ifdef VAX_WITH_NCCL
#include "dist/device/nccl_backend.h"
#endif

namespace vax::dist {
namespace {

#ifndef VAX_WITH_NCCL
std::unique_ptr<Backend> make_nccl_backend(const Communicator&, const DeviceContext&) {
  throw ConfigError("NCCL is not compiled in: configure with VAX_WITH_NCCL=ON");
}
constexpr bool kHasNccl = false;
#else
constexpr bool kHasNccl = true;
#endif

// Of the machine, the same in every container on it; its name where the system does not tell.
std::string machine_id() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id.empty() ? host_name() : id;
}

// Different for two devices anywhere, equal for two ranks on one.
std::string device_id(int index) {
  std::array<char, 64> bus{};
  VAX_CUDA(cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), index));
  return cat(machine_id(), " ", bus.data());
}

bool are_distinct(const std::vector<std::string>& ids) {
  return std::set<std::string>(ids.begin(), ids.end()).size() == ids.size();
}

std::unique_ptr<Backend> make_backend(const Communicator& ranks, const DeviceContext& device,
                                      const std::string& purpose,
                                      const DeviceGroupOptions& options) {
  if (ranks.size() == 1) return make_cuda_self_backend(device);
  const bool distinct = are_distinct(ranks.all_gather_text(device_id(device.index)));
  if (options.transport == Transport::kNccl && !distinct)
    throw ConfigError(cat("NCCL needs a device per rank; of the ", ranks.size(), " ranks of group ",
                          purpose, " several have the same one"));
  const bool nccl = options.transport == Transport::kNccl ||
                    (options.transport == Transport::kAuto && kHasNccl && distinct);
  return nccl ? make_nccl_backend(ranks, device)
              : make_staged_backend(ranks, device, purpose, options.staging_bytes);
}

}  // namespace

std::unique_ptr<Collectives> make_device_collectives(const Communicator& ranks,
                                                     const DeviceContext& device,
                                                     const std::string& purpose,
                                                     const DeviceGroupOptions& options) {
  std::shared_ptr<CallGroup> calls = ranks.make_call_group(purpose);
  return std::make_unique<Collectives>(make_backend(ranks, device, purpose, options),
                                       std::move(calls));
}

void synchronize(const Communicator& world, const DeviceContext& device) {
  VAX_CUDA(cudaSetDevice(device.index));
  CudaEvent computed;
  computed.record(static_cast<cudaStream_t>(device.compute_stream));
  world.devices()->wait_until([&] { return computed.is_done(); });
}

}  // namespace vax::dist
