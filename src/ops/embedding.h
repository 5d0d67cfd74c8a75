// Token embedding: x_t = W[id_t]; dW[id_t] += dx_t (fp32, same result for any number of threads).
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <cstdint>
#include <span>

#include "ops/kernels/kernel.h"

namespace vax::ops {

// SHAPES w [V, D] fp32 or bf16; x [T, D] fp32 (written).
// Both THROW std::logic_error unless 0 <= ids < V.
void embedding_forward(std::span<const int64_t> ids, const at::Tensor& w_VD, at::Tensor& x_TD);
// dw [V, D] fp32 is added to; or, unless `accumulate`, all of it is written (0 where no token has
// the id), whatever it held.
void embedding_backward(const at::Tensor& dx_TD, std::span<const int64_t> ids, at::Tensor& dw_VD,
                        bool accumulate = true);

// Kernels: for embedding.cpp.

// Both of a device; columns of all matrices are the same.
struct EmbeddingArgs {
  int64_t cols;
  const int64_t* ids;
  ConstRows w;
  Rows x;  // fp32
};
// sorted_ids: ids in ascending order; order: the token of each. Tokens of one id are added to dw in
// the order of `order`.
struct EmbeddingBackwardArgs {
  int64_t cols;
  ConstRows dx;  // fp32
  const int64_t *sorted_ids, *order;
  Rows dw;  // fp32
};
struct EmbeddingKernels {
  RowKernel<EmbeddingArgs> forward;
  RowKernel<EmbeddingBackwardArgs> backward;  // all tokens
};
VAX_DEVICE_KERNELS(EmbeddingKernels, embedding_kernels);

}  // namespace vax::ops
