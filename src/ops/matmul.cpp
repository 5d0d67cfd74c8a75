// Which library multiplies what.
//  - fp32: own kernels where the BLAS inside LibTorch leaves AVX-512 unused.
//  - bf16: oneDNN uses what the processor has (AMX, AVX-512 BF16) whoever made it, but writes
//    bf16. Where the processor has no AMX (that is, it is not Intel's), own kernels are as fast and
//    write fp32: no rounding, no second pass over the weight gradient.
#include "ops/matmul.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/error.h"
#include "ops/device/library.h"
#include "ops/device/runtime.h"
#include "ops/gemm.h"
#include "ops/packed_gemm.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

// Panels repay their packing when every word is used several times.
bool repays_packing(int64_t rows, int64_t cols, int64_t inner) {
  constexpr int64_t kFewest = 32;
  return std::min(rows, cols) >= kFewest && inner >= kFewest;
}

bool is_transposed(const at::Tensor& matrix) {
  return matrix.stride(1) != 1 && matrix.stride(0) == 1;
}

GemmOperand operand(const at::Tensor& matrix) {
  const bool transposed = is_transposed(matrix);
  const at::Tensor stored = transposed ? matrix.t() : matrix;
  return {const_rows(stored), transposed};
}

void check(const at::Tensor& a_MK, const at::Tensor& b_KN, const at::Tensor& c_MN) {
  VAX_CHECK(a_MK.dim() == 2 && b_KN.dim() == 2 && a_MK.size(1) == b_KN.size(0), "a has shape ",
            a_MK.sizes(), " and b ", b_KN.sizes(), ", expected [M, K] and [K, N]");
  check_tensor(c_MN, "c", {a_MK.size(0), b_KN.size(1)}, Types::kFloatOrBf16);
  check_same_type(a_MK, "a", b_KN, "b");
}

void packed(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN, bool accumulate) {
  packed_gemm(packed_gemm_kernels.cpu(), {.rows = a_MK.size(0),
                                          .cols = b_KN.size(1),
                                          .inner = a_MK.size(1),
                                          .a = operand(a_MK),
                                          .b = operand(b_KN),
                                          .c = c_MN.mutable_data_ptr<float>(),
                                          .c_stride = c_MN.stride(0),
                                          .accumulate = accumulate});
}

// In the operands' type.
void multiply(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN, bool accumulate) {
  if (!device::takes(c_MN) && c_MN.scalar_type() == at::kFloat && blas_is_narrower() &&
      repays_packing(a_MK.size(0), b_KN.size(1), a_MK.size(1))) {
    packed(a_MK, b_KN, c_MN, accumulate);
  } else if (accumulate) {
    at::addmm_out(c_MN, c_MN, a_MK, b_KN);
  } else {
    at::mm_out(c_MN, a_MK, b_KN);
  }
}

// bf16 operands, fp32 result. LibTorch's product of a block of rows goes through a temporary that
// stays in cache.
void multiply_to_float(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN,
                       bool accumulate) {
  if (device::takes(c_MN)) return device::product_to_float(a_MK, b_KN, c_MN, accumulate);
  if (blas_is_narrower() && packed_gemm_kernels.cpu().bf16_dot &&
      repays_packing(a_MK.size(0), b_KN.size(1), a_MK.size(1))) {
    packed(a_MK, b_KN, c_MN, accumulate);
    return;
  }
  constexpr int64_t kTemporaryElements = int64_t{1} << 20;
  constexpr int64_t kFewestRows = 128;  // fewer would pack b again too often
  const int64_t num_rows = c_MN.size(0), num_cols = std::max<int64_t>(1, c_MN.size(1));
  const int64_t block = std::min(num_rows, std::max(kFewestRows, kTemporaryElements / num_cols));
  const at::Tensor product = at::empty({block, c_MN.size(1)}, a_MK.options());
  for (int64_t begin = 0; begin < num_rows; begin += block) {
    const int64_t rows = std::min(block, num_rows - begin);
    at::Tensor part = product.narrow(0, 0, rows);
    at::mm_out(part, a_MK.narrow(0, begin, rows), b_KN);
    at::Tensor c = c_MN.narrow(0, begin, rows);
    if (accumulate) {
      c.add_(part);
    } else {
      c.copy_(part);
    }
  }
}

}  // namespace

void unchecked::matmul(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN,
                       bool accumulate) {
  if (a_MK.scalar_type() == c_MN.scalar_type()) {
    multiply(a_MK, b_KN, c_MN, accumulate);
  } else {
    multiply_to_float(a_MK, b_KN, c_MN, accumulate);
  }
}

void matmul(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN, bool accumulate) {
  check(a_MK, b_KN, c_MN);
  check_same_type(a_MK, "a", c_MN, "c");
  unchecked::matmul(a_MK, b_KN, c_MN, accumulate);
}

void matmul_to_float(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN,
                     bool accumulate) {
  check(a_MK, b_KN, c_MN);
  check_tensor(c_MN, "c", c_MN.sizes(), Types::kFloat);
  unchecked::matmul(a_MK, b_KN, c_MN, accumulate);
}

}  // namespace vax::ops
