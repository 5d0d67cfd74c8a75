// The low-rank branch of a linear layer (LoRA, arXiv 2106.09685), as PEFT computes it:
//   u = drop(x) A^T            y += scale * u B^T               scale = alpha / r
//   du = scale * dy B          dx += dropmask(du A)
//   dA = du^T drop(x)         dB = scale * dy^T u
// Saved by the caller: x and u (4 * R bytes a token). Masks are drawn again, not stored; drop() and
// dropmask() include the factor 1 / (1 - p). Arithmetic is fp32 whatever the types of x, y, dy, dx
// (fp32 or bf16 each); A, B, u, dA, dB are fp32.
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <cstdint>

#include "ops/dropout.h"
#include "ops/kernels/kernel.h"
#include "ops/thin_product.h"

namespace vax::ops {

// SHAPES x [T, I], a [R, I], b [O, R], u [T, R] (written), y [T, O] (added to; rows may be strided:
// a column block of a wider matrix) or undefined: only u is wanted.
void lora_forward(const at::Tensor& x_TI, const at::Tensor& a_RI, const at::Tensor& b_OR,
                  double scale, const DropoutKey& dropout, at::Tensor& u_TR, at::Tensor& y_TO);

// dy [T, O] (rows may be strided). dx [T, I] is added to, or undefined: not wanted (nothing below
// is trained). da [R, I] and db [O, R] are added to, or written unless `accumulate` (whatever they
// held), or undefined: then only dx is computed (x and u are not read).
void lora_backward(const at::Tensor& dy_TO, const at::Tensor& x_TI, const at::Tensor& u_TR,
                   const at::Tensor& a_RI, const at::Tensor& b_OR, double scale,
                   const DropoutKey& dropout, at::Tensor& dx_TI, at::Tensor& da_RI,
                   at::Tensor& db_OR, bool accumulate = true);

// Kernels: for lora.cpp.

// Products with one thin side: u [rows, rank], a [rank, cols], X, Y [rows, cols]; u is contiguous.
// Masks concern X or Y.
struct LoraArgs {
  ThinArgs thin;
  MaskArgs mask;
  float factor;
  float* scratch;  // as many floats as the function beside the kernel says
};
struct LoraSum {
  float* sum;  // [rank, cols], or [cols, rank] when turned
  bool accumulate, turned;
};
struct LoraKernels {
  // U = factor * mask(X) A^T
  void (*xat)(const LoraArgs&, ConstRows x);
  int64_t (*xat_scratch)(const ThinArgs&);
  // Y += mask(factor * U A)
  void (*ua)(const LoraArgs&, Rows y);
  // grad (+)= factor * U^T mask(X); A is not read.
  void (*utx)(const LoraArgs&, ConstRows x, const LoraSum& grad);
  int64_t (*utx_scratch)(const ThinArgs&);
};
VAX_DEVICE_KERNELS(LoraKernels, lora_kernels);

}  // namespace vax::ops
