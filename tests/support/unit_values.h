// Contents of sharded units for tests: a function of unit, element and "version" of the weights.
#pragma once

#include <ATen/ATen.h>

#include "dist/shard/sharded_units.h"

namespace vax::testing {

// [count]. Not exact in bf16, so that casts matter.
inline at::Tensor unit_values(int64_t count, int unit, int version) {
  return at::arange(count, at::kFloat) * 1.37f + static_cast<float>(unit * 100) +
         static_cast<float>(version) * 0.11f;
}

// Begins an update and writes this rank's slices and nothing else; the caller refreshes.
inline void write_unit_values(dist::ShardedUnits& units, int version) {
  units.begin_update();
  for (int unit = 0; unit < units.num_units(); ++unit) {
    const dist::Partition& part = units.partition(unit);
    units.shard(unit)
        .narrow(0, 0, part.end - part.begin)
        .copy_(unit_values(part.count, unit, version).narrow(0, part.begin, part.end - part.begin));
  }
}

}  // namespace vax::testing
