// AdamW's update of a slice.
#include "ops/adamw.h"
#include "ops/kernels/vec.inl"

namespace vax::ops::VAX_KERNEL_TARGET {

void adamw(const AdamWArgs& args, int64_t begin, int64_t end) {
  for_vectors(begin, end, [&](int64_t i, auto part) {
    const VecF grad = load(args.grad + i, part) * args.grad_scale;
    const VecF weight = load(args.weight + i, part) * args.decay;
    const VecF m = load(args.exp_avg + i, part);
    const VecF v = load(args.exp_avg_sq + i, part);
    const VecF new_m = multiply_add(m, args.beta1, grad * args.one_minus_beta1);
    const VecF new_v = multiply_add(v, args.beta2, grad * grad * args.one_minus_beta2);
    const VecF denominator = multiply_add(sqrt(new_v), args.inv_sqrt_correction2, splat(args.eps));
    store(args.exp_avg + i, new_m, part);
    store(args.exp_avg_sq + i, new_v, part);
    store(args.weight + i, multiply_add(new_m / denominator, -args.step_size, weight), part);
  });
}

const AdamWKernels adamw_kernels = {.update = adamw};

}  // namespace vax::ops::VAX_KERNEL_TARGET
