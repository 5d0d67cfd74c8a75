// AdamW (arXiv 1711.05101) as torch.optim.AdamW computes it, on a flat slice, fp32:
//   g = grad * grad_scale      w -= lr * weight_decay * w
//   m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2
//   w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
#pragma once

#include <cstdint>
#include <span>

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

// All spans have one length.
void adamw_update(std::span<float> weight, std::span<const float> grad, std::span<float> exp_avg,
                  std::span<float> exp_avg_sq, const AdamWOptions& options);

}  // namespace vax::ops
