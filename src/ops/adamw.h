// AdamW (arXiv 1711.05101) as torch.optim.AdamW computes it, on a flat slice, fp32:
//   g = grad * grad_scale      w -= lr * weight_decay * w
//   m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2
//   w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

struct AdamWOptions {
  double lr = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  int64_t step = 1;       // t, 1-based
  double grad_scale = 1;  // clipping
};

// SHAPES all [N], fp32. THROWS std::logic_error where they are not.
void adamw_update(at::Tensor weight, const at::Tensor& grad, at::Tensor exp_avg,
                  at::Tensor exp_avg_sq, const AdamWOptions& options);

// Kernels: for adamw.cpp.

struct AdamWArgs {
  float *weight, *exp_avg, *exp_avg_sq;
  const float* grad;
  float grad_scale, decay, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size,
      inv_sqrt_correction2, eps;
};
struct AdamWKernels {
  RowKernel<AdamWArgs> update;  // of elements, not rows
};
VAX_KERNELS(AdamWKernels, adamw_kernels);

}  // namespace vax::ops
