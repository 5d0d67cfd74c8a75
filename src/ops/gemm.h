// Private to this folder.
// One fp32 matrix product for slices of heads inside parallel_for, where an ATen call per
// product would cost more than the product: own kernels, or the BLAS that LibTorch carries. Runs on
// the calling thread only, with the same bits for any number of threads elsewhere (given operands
// of the same alignment, see scratch.h).
#pragma once

#include "ops/packed_gemm.h"

namespace vax::ops {

// REQUIRES fp32 operands and a scratch.
void gemm(const GemmArgs& args);

// Whether the BLAS inside LibTorch leaves this processor's widest vectors unused, so that
// packed_gemm() is about twice as fast: MKL gives AVX-512 to Intel's processors only.
bool blas_is_narrower();

}  // namespace vax::ops
