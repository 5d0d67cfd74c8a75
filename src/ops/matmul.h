// The one place where a large matrix product is made: LibTorch's, or packed_gemm() where that is
// known to be faster. Sums are fp32 whatever the types.
// THROWS std::logic_error where a shape or a type does not fit.
#pragma once

#include <ATen/core/Tensor.h>

namespace vax::ops {

// C = A B, added to C when `accumulate` (else C is written without being read).
// SHAPES a [M, K] and b [K, N] of one type, fp32 or bf16, each with contiguous rows or the
// transpose of such a matrix; c [M, N] of that type, rows contiguous and perhaps strided.
void matmul(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN, bool accumulate);

// The same for bf16 operands and an fp32 C; a is the transpose of a matrix with contiguous rows, b
// such a matrix. Where LibTorch makes the product, it is rounded to bf16 once before it is added.
void matmul_to_float(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN,
                     bool accumulate);

// For operators that have checked the shapes: matmul(), or matmul_to_float() where c is fp32 and a
// and b are not.
namespace unchecked {
void matmul(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN, bool accumulate);
}

}  // namespace vax::ops
