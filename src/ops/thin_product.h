// Products with one thin side (LoRA's rank, a few query heads) on a CPU: U [rows, rank],
// A [rank, cols], X and Y [rows, cols], all fp32 but Y.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

struct ThinArgs {
  int64_t rows, cols, rank;
  float* u;
  int64_t u_stride;
  const float* a;
  int64_t a_stride;
};
struct ThinProductKernels {
  void (*xat)(const ThinArgs&, const float* x, int64_t x_stride);  // U = X A^T
  // Y += U A, only where the mask's bit is 1 (mask null: everywhere).
  void (*ua)(const ThinArgs&, Rows y, const uint8_t* mask, int64_t mask_stride);
  // grad [rank, cols] += U^T X (A is not read).
  void (*utx)(const ThinArgs&, const float* x, int64_t x_stride, float* grad);
};
VAX_CPU_KERNELS(ThinProductKernels, thin_product_kernels);

}  // namespace vax::ops
