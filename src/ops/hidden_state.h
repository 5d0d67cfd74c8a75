// The residual stream h [T, D] (fp32) and what is kept of its gradient, one pass over memory each:
//   residual_add       h = x + e
//   copy_with_squares  kept = grad, and the squared Frobenius norm of what was kept
//   add_scaled         h += scale * kept
//   cosine_sums        <a, b>, <a, a>, <b, b>
//   add_squares        the squared norm of any tensor
// Sums are fp32 within a row and fp64 over the rows in order: the same bits for any number of
// threads; how rows are packed into micro-batches changes the last bits of fp64 only. They are
// ADDED to fp64 elements in the memory of the tensors, and the scale is read from there, so that
// nobody waits for a device between two operators.
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

// SHAPES x [T, D] fp32, e [T, D] fp32 or bf16, h [T, D] fp32 (written; may be x).
void residual_add(const at::Tensor& x_TD, const at::Tensor& e_TD, at::Tensor& h_TD);

// SHAPES grad [T, D] fp32, kept [T, D] fp32 or bf16 (written), squares fp64, one element: gets the
// sum of the squares of kept, that is after rounding to its type.
void copy_with_squares(const at::Tensor& grad_TD, at::Tensor& kept_TD, at::Tensor& squares);

// SHAPES kept [T, D], or [D]: one vector for all rows; fp32 or bf16. scale fp64, one element; used
// in fp32. h [T, D] fp32. A scale of 0 leaves every bit of h as it is, whatever kept holds.
void add_scaled(const at::Tensor& kept_TD, const at::Tensor& scale, at::Tensor& h_TD);

// SHAPES a, b [T, D] or both [D]; fp32 or bf16 each. sums [3] fp64: <a, b>, <a, a>, <b, b>; the
// cosine is sums[0] / sqrt(sums[1] * sums[2]).
void cosine_sums(const at::Tensor& a_TD, const at::Tensor& b_TD, at::Tensor& sums);

// SHAPES x any, fp32, contiguous; squares fp64, one element.
void add_squares(const at::Tensor& x, at::Tensor& squares);

// Kernels: for hidden_state.cpp.

// h = x + scale * added; h may be x. A stride of 0 repeats one row of added.
struct AddScaledArgs {
  int64_t cols;
  ConstRows x, added;   // x fp32
  const double* scale;  // one element, read as fp32; 0 changes nothing; null: 1
  Rows h;               // fp32
};
struct HiddenStateKernels {
  RowKernel<AddScaledArgs> add_scaled;
  // kept = grad (fp32); squares[i] = sum over row i of kept^2, after rounding to kept's type.
  void (*copy_with_squares)(int64_t cols, ConstRows grad, Rows kept, int64_t rows, float* squares);
  // Of a device. row_sums [3, rows] is written: a b, a a, b b.
  void (*cosine_sums)(ConstRows a, ConstRows b, int64_t rows, int64_t cols,
                      float* row_sums) = nullptr;
  // Of a device. partials [num_square_partials(count)] is written: squares of runs of elements, 16
  // at a time in fp32, then in fp64.
  void (*squares)(const float* x, int64_t count, double* partials) = nullptr;
  int64_t (*num_square_partials)(int64_t count) = nullptr;
};
VAX_KERNELS(HiddenStateKernels, hidden_state_kernels);

}  // namespace vax::ops
