// Private to this folder: collectives of host memory over MPI. See mpi_backend.cpp.
#pragma once

#include <cstdint>
#include <memory>

#include "dist/comm/backend.h"
#include "dist/comm/mpi_handle.h"
#include "dist/comm/progress_thread.h"

namespace vax::dist {

// Takes over `comm`, which no one else may use. One MPI call moves at most
// `max_elements_per_call` elements of the whole buffer (at least one per rank); longer operations
// are cut into several calls. `progress` moves pending operations on; null: their own test() and
// wait() do. REQUIRES max_elements_per_call in [1, INT_MAX], equal on all ranks.
std::unique_ptr<Backend> make_mpi_backend(MpiCommunicator comm, int64_t max_elements_per_call,
                                          std::shared_ptr<ProgressThread> progress);

}  // namespace vax::dist
