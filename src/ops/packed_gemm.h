// Private to this folder.
// Matrix products by this library's own kernels: both operands are copied into panels that fit the
// caches, and a tile of results stays in registers (packed_gemm.inl). For processors that
// LibTorch's BLAS does not serve with their widest vectors; matmul.h chooses.
//
// An element of the result is a function of its row of A, its column of B and the inner dimension
// alone: the same bits for any number of threads, any alignment, and any other rows and columns
// beside it. Sums are fp32.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

struct PanelScratch;  // ops/scratch.h

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

// Kernels: for packed_gemm.cpp and those who choose it.

// Source of one panel: a word (an fp32 number, or two bf16 numbers that follow each other along the
// inner dimension) for each of `depth` inner positions and each lane; lanes and halves that do not
// exist become 0.
struct PackArgs {
  const void* source;
  Elem elem;
  int64_t stride;  // elements between rows of the source
  bool turned;    // rows of the source are lanes (fp32 only), else positions of the inner dimension
  int64_t lanes;  // that exist
  int64_t depth;  // words
  int64_t inner;  // elements along the inner dimension, from the source's first
};
// C [rows, cols] = alpha * A B, added to C when `accumulate`, from one packed panel each.
struct TileArgs {
  int64_t depth;  // words
  const float *a, *b;
  float* c;
  int64_t c_stride, rows, cols;
  float alpha;
  bool accumulate;
};
struct PackedGemmKernels {
  // Panels have `rows` words of A or `cols` words of B per inner position.
  int rows, cols;
  bool bf16_dot;  // the processor multiplies pairs of bf16
  void (*pack_a)(const PackArgs&, float* to);
  void (*pack_b)(const PackArgs&, float* to);
  void (*tile_float)(const TileArgs&);
  void (*tile_bf16)(const TileArgs&);
};
VAX_CPU_KERNELS(PackedGemmKernels, packed_gemm_kernels);

// Runs on LibTorch's threads, on the calling one alone with a scratch or inside parallel_for.
// THROWS std::logic_error unless both operands have one type and, in bf16, lie with their rows
// along the inner dimension (A transposed, B not), as those of a weight gradient do.
void packed_gemm(const PackedGemmKernels& kernels, const GemmArgs& args);

}  // namespace vax::ops
