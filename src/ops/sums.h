// Private to this folder.
// The last step of sums over rows on a device: parts that many blocks have left become one result.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

// `count` partial sums, `stride` floats apart.
struct PartialSums {
  const float* data;
  int64_t count, stride;
};

struct SumsKernels {
  // sum (+)= the first `elements` floats of every partial sum: sums r, r + 32, ... first, then
  // those 32 in order.
  void (*add_partials)(const PartialSums& partials, int64_t elements, float* sum, bool accumulate);
  // sums[i] += sum of values[i * count, (i + 1) * count) in fp64, for i < num_sums. Thread t of
  // 1024 adds elements t, t + 1024, ... in order, then the threads are joined as block_sum() does.
  void (*add_totals)(const float* values, int64_t count, int num_sums, double* sums);
  void (*add_double_totals)(const double* values, int64_t count, int num_sums, double* sums);
};
VAX_DEVICE_KERNELS(SumsKernels, sums_kernels);

}  // namespace vax::ops
