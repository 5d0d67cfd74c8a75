// Collectives of device memory over NCCL. Compiled with VAX_WITH_NCCL only. Operations run on a
// stream of their own: they start after what `stream` holds when they are called; Work::wait()
// makes that `stream` wait for them and returns at once. kBFloat16 is reduced natively.
#pragma once

#include <memory>

#include "dist/collectives.h"
#include "dist/communicator.h"

namespace vax::dist {

// COLLECTIVE over `bootstrap`, whose ranks form the group and which carries NCCL's id; it is not
// used afterwards. `device` is this rank's CUDA device. THROWS CommError: CUDA or NCCL failed, or
// the NCCL that is loaded does not match the one this was compiled for.
std::unique_ptr<Collectives> make_nccl_collectives(const Communicator& bootstrap, int device);

}  // namespace vax::dist
