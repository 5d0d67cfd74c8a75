// Matrix products by this library's own kernels: both operands are copied into panels that fit the
// caches, and a tile of results stays in registers (kernels/gemm.inl). For processors that
// LibTorch's BLAS does not serve with their widest vectors; matmul.h chooses.
//
// An element of the result is a function of its row of A, its column of B and the inner dimension
// alone: the same bits for any number of threads, any alignment, and any other rows and columns
// beside it. Sums are fp32.
#pragma once

#include <cstdint>

#include "ops/kernels/table.h"
#include "ops/scratch.h"

namespace vax::ops {

// Packed panels, for callers that make many small products: memory is then asked for once.
struct PanelScratch {
  AlignedBuffer shared, block;
};

struct GemmOperand {
  ConstRows stored;
  bool transposed = false;  // the product takes the transpose of what is stored
};

// C = alpha * op(A) op(B), added to C when `accumulate` (else C is not read); op(A) [rows, inner],
// op(B) [inner, cols], C fp32.
struct GemmArgs {
  int64_t rows, cols, inner;
  GemmOperand a, b;
  float* c;
  int64_t c_stride;
  float alpha = 1;
  bool accumulate = false;
  PanelScratch* scratch = nullptr;  // if given, the calling thread multiplies alone
};

// Runs on LibTorch's threads, on the calling one alone with a scratch or inside parallel_for.
// THROWS std::logic_error unless both operands have one type and, in bf16, lie with their rows
// along the inner dimension (A transposed, B not), as those of a weight gradient do.
void packed_gemm(const KernelTable& table, const GemmArgs& args);

}  // namespace vax::ops
