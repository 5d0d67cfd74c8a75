// Output projection and cross entropy in one, on the label rows only and in row chunks, so that the
// full logits never exist. Per chunk, with dz in the place of z:
//   z = x W^T     loss = sum(logsumexp(z) - z[target])
//   dz = loss_scale * (softmax(z) - onehot(target))     dx = dz W     dW = dz^T x
// Nothing is saved: the backward happens with the forward.
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <cstdint>
#include <span>

#include "ops/kernels/kernel.h"

namespace vax::ops {

// SHAPES x [N, D] and w [V, D] of the compute type (fp32 or bf16); targets [N] in [0, V), in the
// memory of the tensors; in device memory also -1: the row counts for nothing, its dx is 0.
// loss_scale fp64, one element. loss_sum fp64, one element: the unscaled sum of the cross entropies
// is added (fp32 softmax, summed in fp64). dx [N, D] (type of x) is written unless undefined; dw
// [V, D] fp32 is added to, or written unless `accumulate` (whatever it held), or undefined: not
// wanted. In bf16 the logits z and dz are rounded to bf16, as a bf16 linear layer's output is.
// chunk_rows: rows whose logits exist at one time; 0 chooses 16 MiB of logits, 64 MiB with dw or on
// a device.
// THROWS std::logic_error on another target, where targets lie in host memory.
void head_loss(const at::Tensor& x_ND, const at::Tensor& w_VD, std::span<const int64_t> targets,
               const at::Tensor& loss_scale, at::Tensor& loss_sum, at::Tensor& dx_ND,
               at::Tensor& dw_VD, bool accumulate = true, int64_t chunk_rows = 0);

// The rows that chunk_rows = 0 chooses (large: with dw or on a device): what the logits take is at
// most rows * vocab_size * element_bytes.
int64_t head_loss_chunk_rows(int64_t vocab_size, int64_t element_bytes, bool large);

// Kernels: for head_loss.cpp.

struct CrossEntropyArgs {
  int64_t cols;
  Rows z;  // becomes scale * (softmax(z) - onehot) when with_gradient
  const int64_t* targets;
  const double* scale;  // one element, read as fp32
  bool with_gradient;
  double* losses;  // losses[row] = logsumexp(z) - z[target]; 0 for target -1, as the gradient
};
struct HeadLossKernels {
  RowKernel<CrossEntropyArgs> cross_entropy;
};
VAX_KERNELS(HeadLossKernels, head_loss_kernels);

}  // namespace vax::ops
