// A group of ranks that are threads of one process, for tests of code that divides work over ranks
// without a launcher. Only what evaluation uses: all_gather, all_reduce and barrier.
#pragma once

#include <barrier>
#include <functional>
#include <memory>
#include <vector>

#include "dist/comm/collectives.h"

namespace vax::eval::testing {

// Runs body(collectives) for every rank of a group of `size`, each in a thread of its own. An
// exception of a rank is thrown again here; the bodies must then throw on every rank, since the
// others would wait for ever.
void run_ranks(int size, const std::function<void(dist::Collectives&)>& body);

}  // namespace vax::eval::testing
