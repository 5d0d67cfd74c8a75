// Private to this folder: device memory over MPI, for several ranks on one device
// and for builds without NCCL. An operation is cut into pieces that fit a pinned staging buffer; a
// piece is copied to the host, exchanged by a collective of host memory and copied back. Two
// buffers go round, so that one piece is copied while another is exchanged. What is reduced has
// the bits that the host's collectives give.
//
// It moves on only while the host is inside test(), wait(), the start of an operation or a wait for
// the device: the queue of pieces is one per group and the same on every rank, so pieces are
// exchanged in the same order everywhere.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dist/comm/backend.h"
#include "dist/device/device_group.h"

namespace vax::dist {

// COLLECTIVE over `ranks`. `staging_bytes` > 0 of each buffer, at least what one element of every
// rank takes. THROWS CommError.
// `purpose` names its host group in the call log.
std::unique_ptr<Backend> make_staged_backend(const Communicator& ranks, const DeviceContext& device,
                                             const std::string& purpose, int64_t staging_bytes);

}  // namespace vax::dist
