// Private to dist: reduction of blocks that lie in this rank's reach, in the order of the
// ranks they came from. The order is fixed, so that a result depends neither on the MPI library
// nor on which message arrived first.
#pragma once

#include <cstdint>
#include <span>

#include "dist/comm/collectives.h"

namespace vax::dist {

// result[i] = (blocks[0][i] op blocks[1][i]) op blocks[2][i] ..., `count` elements. `result` must
// not overlap any block. Not for kBFloat16.
void reduce_blocks(std::span<const void* const> blocks, int64_t count, DataType type, ReduceOp op,
                   void* result);

// result[i] = r + ((blocks[0][i] + blocks[1][i]) + ...), where r is result[i] or, unless
// `accumulate`, nothing: bit for bit what reduce_blocks and an addition would give.
void sum_blocks(std::span<const float* const> blocks, int64_t count, bool accumulate,
                float* result);

}  // namespace vax::dist
