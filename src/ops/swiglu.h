// SwiGLU's elementwise part: y = silu(g) * u with silu(g) = g * sigmoid(g); g and u are the left
// and right half of one matrix, as the fused gate-up GEMM writes them.
//   du = dy silu(g)       dg = dy u sigmoid(g) (1 + g (1 - sigmoid(g)))
// Saved by the caller: the gate-up matrix.
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

// SHAPES gate_up [T, 2F], y [T, F] (written); fp32 or bf16, one type; arithmetic in fp32.
void swiglu_forward(const at::Tensor& gate_up_TC, at::Tensor& y_TF);
// dgate_up [T, 2F] is written; it may be gate_up itself.
void swiglu_backward(const at::Tensor& dy_TF, const at::Tensor& gate_up_TC,
                     at::Tensor& dgate_up_TC);

// Kernels: for swiglu.cpp.

struct SwigluArgs {
  int64_t cols;  // F
  ConstRows dy;  // backward only
  ConstRows gate_up;
  Rows out;  // y, or dgate_up
};
struct SwigluKernels {
  RowKernel<SwigluArgs> forward, backward;
};
VAX_KERNELS(SwigluKernels, swiglu_kernels);

}  // namespace vax::ops
