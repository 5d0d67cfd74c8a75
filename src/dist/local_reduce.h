// Private to this folder: reduction of blocks that lie in this rank's memory, in the order of the
// ranks they came from. The order is fixed, so that a result depends neither on the MPI library
// nor on which message arrived first.
#pragma once

#include <cstdint>

#include "dist/collectives.h"

namespace vax::dist {

// result[i] = (blocks[0][i] op blocks[1][i]) op blocks[2][i] ...; block b starts at element
// b * count of `blocks`. `result` must not overlap `blocks`. Not for kBFloat16.
void reduce_blocks(const void* blocks, int num_blocks, int64_t count, DataType type, ReduceOp op,
                   void* result);

}  // namespace vax::dist
