// An element's result depends on that element only, so that shards
// of any size and any number of threads give the bits of the whole.
#include "ops/adamw.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.h"
#include "ops/device/runtime.h"
#include "ops/parallel.h"
#include "ops/tensor_rows.h"

namespace vax::ops {

// Bias corrections and products of options are made in double, so that late steps lose nothing.
void adamw_update(at::Tensor weight, const at::Tensor& grad, at::Tensor exp_avg,
                  at::Tensor exp_avg_sq, const AdamWOptions& options) {
  VAX_CHECK(weight.dim() == 1, "weight has shape ", weight.sizes(), ", expected [N]");
  check_tensor(weight, "weight", weight.sizes(), Types::kFloat);
  check_tensor(grad, "grad", weight.sizes(), Types::kFloat);
  check_tensor(exp_avg, "exp_avg", weight.sizes(), Types::kFloat);
  check_tensor(exp_avg_sq, "exp_avg_sq", weight.sizes(), Types::kFloat);
  VAX_CHECK(options.step >= 1, "step is ", options.step, ", expected at least 1");
  const auto step = static_cast<double>(options.step);
  const double correction1 = 1 - std::pow(options.beta1, step);
  const double correction2 = 1 - std::pow(options.beta2, step);
  const AdamWArgs args{.weight = weight.mutable_data_ptr<float>(),
                       .exp_avg = exp_avg.mutable_data_ptr<float>(),
                       .exp_avg_sq = exp_avg_sq.mutable_data_ptr<float>(),
                       .grad = grad.const_data_ptr<float>(),
                       .grad_scale = static_cast<float>(options.grad_scale),
                       .decay = static_cast<float>(1 - options.lr * options.weight_decay),
                       .beta1 = static_cast<float>(options.beta1),
                       .one_minus_beta1 = static_cast<float>(1 - options.beta1),
                       .beta2 = static_cast<float>(options.beta2),
                       .one_minus_beta2 = static_cast<float>(1 - options.beta2),
                       .step_size = static_cast<float>(options.lr / correction1),
                       .inv_sqrt_correction2 = static_cast<float>(1 / std::sqrt(correction2)),
                       .eps = static_cast<float>(options.eps)};
  const int64_t count = weight.numel();
  if (device::takes(weight)) return adamw_kernels.device().update(args, 0, count);
  parallel_for(0, count, 16384,
               [&](int64_t begin, int64_t end) { adamw_kernels.cpu().update(args, begin, end); });
}

}  // namespace vax::ops
