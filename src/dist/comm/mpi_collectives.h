// Private to this folder: Collectives over MPI, for host memory. See mpi_collectives.cpp.
#pragma once

#include <cstdint>
#include <memory>

#include "dist/comm/collectives.h"
#include "dist/comm/mpi_handle.h"
#include "dist/comm/process_services.h"

namespace vax::dist {

// Takes over `comm`, which no one else may use. One MPI call moves at most
// `max_elements_per_call` elements of the whole buffer (at least one per rank); longer operations
// are cut into several calls. The progress thread of `services` moves pending operations on;
// without one their own test() and wait() do. `calls` records the operations; null: nothing does.
// REQUIRES max_elements_per_call in [1, INT_MAX], equal on all ranks.
std::unique_ptr<Collectives> make_mpi_collectives(MpiCommunicator comm,
                                                  int64_t max_elements_per_call,
                                                  std::shared_ptr<ProcessServices> services,
                                                  std::shared_ptr<CallGroup> calls);

}  // namespace vax::dist
