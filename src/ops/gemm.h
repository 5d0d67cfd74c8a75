// One fp32 matrix product on row-major matrices with leading dimensions, through the BLAS that
// LibTorch carries: for products of head slices inside at::parallel_for, where an ATen call per
// product would cost more than the product. Runs on the calling thread only, with the same bits for
// any number of threads elsewhere (given operands of the same alignment, see scratch.h).
#pragma once

#include <cstdint>

namespace vax::ops {

struct MatrixView {
  const float* data;
  int64_t stride;           // elements between rows as stored
  bool transposed = false;  // the product takes the transpose of what is stored
};

// C = alpha * op(A) op(B) + beta * C with op(A) [rows, inner], op(B) [inner, cols]. beta = 0 writes
// C without reading it.
void gemm(int64_t rows, int64_t cols, int64_t inner, float alpha, MatrixView a, MatrixView b,
          float beta, float* c, int64_t c_stride);

}  // namespace vax::ops
