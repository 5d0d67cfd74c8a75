// CPU path: one fused vector loop. An element's result depends on that element only, so that shards
// of any size and any number of threads give the bits of the whole.
#include "ops/adamw.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.h"
#include "ops/kernels/table.h"
#include "ops/parallel.h"

namespace vax::ops {

// Bias corrections and products of options are made in double, so that late steps lose nothing.
void adamw_update(std::span<float> weight, std::span<const float> grad, std::span<float> exp_avg,
                  std::span<float> exp_avg_sq, const AdamWOptions& options) {
  VAX_CHECK(grad.size() == weight.size() && exp_avg.size() == weight.size() &&
                exp_avg_sq.size() == weight.size(),
            "lengths differ: weight ", weight.size(), ", grad ", grad.size(), ", exp_avg ",
            exp_avg.size(), ", exp_avg_sq ", exp_avg_sq.size());
  VAX_CHECK(options.step >= 1, "step is ", options.step, ", expected at least 1");
  const auto step = static_cast<double>(options.step);
  const double correction1 = 1 - std::pow(options.beta1, step);
  const double correction2 = 1 - std::pow(options.beta2, step);
  const AdamWArgs args{.weight = weight.data(),
                       .exp_avg = exp_avg.data(),
                       .exp_avg_sq = exp_avg_sq.data(),
                       .grad = grad.data(),
                       .grad_scale = static_cast<float>(options.grad_scale),
                       .decay = static_cast<float>(1 - options.lr * options.weight_decay),
                       .beta1 = static_cast<float>(options.beta1),
                       .one_minus_beta1 = static_cast<float>(1 - options.beta1),
                       .beta2 = static_cast<float>(options.beta2),
                       .one_minus_beta2 = static_cast<float>(1 - options.beta2),
                       .step_size = static_cast<float>(options.lr / correction1),
                       .inv_sqrt_correction2 = static_cast<float>(1 / std::sqrt(correction2)),
                       .eps = static_cast<float>(options.eps)};
  parallel_for(0, static_cast<int64_t>(weight.size()), 16384,
               [&](int64_t begin, int64_t end) { kernels().adamw(args, begin, end); });
}

}  // namespace vax::ops
