// Linear layers in 8-bit floats (e4m3), for a pass whose result needs a direction and no more
// digits: twice the rate of bf16 on GPUs that have them (compute capability 8.9 and later).
//   y = x W^T + b                 x: one scale per token, found on the way; W: one per output row
//   dx = dy W = (dy * s) Q        s: scales of W's rows, Q: W / s in e4m3
// In the backward s lies along the contraction, so it is multiplied into dy before dy is quantised
// token by token. The tensor cores want both operands contiguous along the contraction, hence two
// copies of W. Errors: e4m3 rounds to 4 significant bits, 1 / 17 of an element at most, and
// elements below about 2^-15 of a row's largest one to steps of 2^-18 of that. Sums: fp32 in the
// backward, the tensor core's own accumulators in the forward.
// An element that is not a number or infinite makes every result that it belongs to NaN.
// Letters of shapes: kernels/kernel.h.
// THROWS std::logic_error where a shape or a type does not fit, where fp8_supports() is false, or
// where a tensor is not on a device that the program has operators for: there is no such path on a
// CPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace vax::ops {

// Both must be multiples of 16, and positive.
bool fp8_supports(int64_t num_inputs, int64_t num_outputs);

struct Fp8Weight {
  at::Tensor by_rows_OI;     // e4m3, for the forward; or undefined
  at::Tensor by_columns_IO;  // e4m3, for the backward; or undefined
  at::Tensor scale_O;        // fp32: W[o, i] is about scale[o] * by_rows[o, i]

  // Of device memory.
  int64_t num_bytes() const;
};
enum class Fp8Copies { kForward, kBackward, kBoth };
// SHAPES w [O, I] bf16, rows may be strided. Allocates what it returns.
Fp8Weight quantise_weight(const at::Tensor& w_OI, Fp8Copies copies);

// SHAPES x [T, I] bf16, bias [O] bf16 or undefined, y [T, O] bf16 (written; rows may be strided).
void fp8_linear_forward(const at::Tensor& x_TI, const Fp8Weight& weight, const at::Tensor& bias_O,
                        at::Tensor& y_TO);
// SHAPES dy [T, O] bf16, dx [T, I] bf16 (written).
void fp8_linear_backward_input(const at::Tensor& dy_TO, const Fp8Weight& weight, at::Tensor& dx_TI);

}  // namespace vax::ops
