// Collectives of device memory, and the one way to wait for a device. Which implementation a
// program has is decided when it is linked: vax_dist_device (CUDA, NCCL where compiled in), its
// stand-in for tests, or vax_dist_device_none, in which a group cannot be made. No CUDA headers.
//
// The calls are asynchronous: operations run on streams of the group, behind what the compute
// stream holds when they are called. Ownership: groups and their Works share what they use of the
// process; the compute stream must outlive them. Threads: one for all device groups of a process.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dist/comm/collectives.h"
#include "dist/comm/communicator.h"

namespace vax::dist {

// Where this process computes.
struct DeviceContext {
  int index = 0;                   // CUDA device of this process
  void* compute_stream = nullptr;  // cudaStream_t
};

enum class Transport {
  kAuto,    // NCCL where it can serve the group, else staged
  kNccl,    // NCCL or an error
  kStaged,  // MPI through pinned host buffers: several ranks on one device, or no NCCL
};

struct DeviceGroupOptions {
  Transport transport = Transport::kAuto;  // the same on all ranks
  // Of each of the two staging buffers of a staged group; longer operations are cut. The same on
  // all ranks, > 0.
  int64_t staging_bytes = int64_t{8} << 20;
};

// A group of the ranks of `ranks`, with streams and (NCCL) a communicator of its own; `ranks` is
// not used afterwards. `purpose` names it for the watchdog. One group per purpose: two that are
// under way at the same time must not share one. A group of one rank copies within its device. NCCL
// serves a group when it is compiled in and every rank has a device of its own. COLLECTIVE, and the
// outcome is the same on all ranks. THROWS ConfigError: this program has no device support, or
// kNccl cannot be; CommError: CUDA, NCCL or MPI failed, or the NCCL that is loaded is not the one
// of LibTorch or older than what this was compiled for.
std::unique_ptr<Collectives> make_device_collectives(const Communicator& ranks,
                                                     const DeviceContext& device,
                                                     const std::string& purpose,
                                                     const DeviceGroupOptions& options = {});

// BLOCKS host until the compute stream has done all that it was given so far. To be used instead of
// CUDA's own calls: it moves staged operations on, finds failures of all groups of this process,
// and tells the watchdog for which call the stream waits. `world`: any communicator of the process.
// THROWS CommError.
void synchronize(const Communicator& world, const DeviceContext& device);

}  // namespace vax::dist
