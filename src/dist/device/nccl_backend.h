// Private to this folder: device memory over NCCL. Compiled with VAX_WITH_NCCL only.
// Operations run on a stream of their own: they start after what the consumer's stream holds when
// they are called; Work::wait() makes that stream wait for them and returns at once. kBFloat16 is
// reduced natively.
#pragma once

#include <memory>

#include "dist/comm/backend.h"
#include "dist/device/device_group.h"

namespace vax::dist {

// COLLECTIVE over `ranks`. THROWS CommError.
std::unique_ptr<Backend> make_nccl_backend(const Communicator& ranks, const DeviceContext& device);

}  // namespace vax::dist
