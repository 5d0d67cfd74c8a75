// bf16 rows as 8-bit floats (e4m3) with one scale per row, on a device.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

struct QuantiseArgs {
  int64_t rows, cols;
  ConstRows x;               // bf16
  const float* col_factors;  // [cols] multiply x first; null: 1
};
struct QuantiseKernels {
  // scale[row] = largest magnitude of the row / 448 (1 for a row of zeros), q = x / scale in e4m3,
  // contiguous; q null: scales only. What is not finite becomes NaN.
  void (*rows)(const QuantiseArgs&, uint8_t* q, float* scale);
  // The same q for given scales, transposed: [cols, rows]. REQUIRES rows that are a multiple of 4.
  void (*transposed)(const QuantiseArgs&, const float* scale, uint8_t* q);
};
VAX_DEVICE_KERNELS(QuantiseKernels, quantise_kernels);

}  // namespace vax::ops
