// Rotary position embedding (arXiv 2104.09864) in Hugging Face's half-split layout, in place:
//   (x1, x2) = halves of a head:   x1' = x1 cos - x2 sin     x2' = x2 cos + x1 sin
// The backward is the rotation by the negative angle. Nothing is saved.
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

// SHAPES x [T, H, K] fp32 or bf16, K even, last dimension contiguous (a column block of the fused
// qkv matrix is fine); cos, sin [P, K/2] fp32; positions [T] int32.
// THROWS std::logic_error unless each position is in [0, P).
void rotary_forward(at::Tensor& x_THK, const at::Tensor& cos_PK, const at::Tensor& sin_PK,
                    const at::Tensor& positions_T);
void rotary_backward(at::Tensor& dx_THK, const at::Tensor& cos_PK, const at::Tensor& sin_PK,
                     const at::Tensor& positions_T);

// Kernels: for rotary.cpp.

struct RotaryArgs {
  int64_t num_heads, half_dim, head_stride;
  Rows x;  // stride: between tokens
  const float *cos, *sin;
  int64_t angle_stride;
  const int32_t* positions;
  float sign;  // of the angle
};
struct RotaryKernels {
  RowKernel<RotaryArgs> rotate;
};
VAX_KERNELS(RotaryKernels, rotary_kernels);

}  // namespace vax::ops
