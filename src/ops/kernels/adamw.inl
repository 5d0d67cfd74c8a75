// AdamW's update of a slice.

namespace vax::ops::VAX_KERNEL_TARGET {

void adamw(const AdamWArgs& args, int64_t begin, int64_t end) {
  for_vectors(begin, end, [&](int64_t i, auto part) {
    const VecF grad = load(args.grad + i, part) * args.grad_scale;
    const VecF weight = load(args.weight + i, part) * args.decay;
    const VecF m = load(args.exp_avg + i, part);
    const VecF v = load(args.exp_avg_sq + i, part);
    const VecF new_m = m * args.beta1 + grad * args.one_minus_beta1;
    const VecF new_v = v * args.beta2 + grad * grad * args.one_minus_beta2;
    const VecF denominator = sqrt(new_v) * args.inv_sqrt_correction2 + args.eps;
    store(args.exp_avg + i, new_m, part);
    store(args.exp_avg_sq + i, new_v, part);
    store(args.weight + i, weight - args.step_size * (new_m / denominator), part);
  });
}

}  // namespace vax::ops::VAX_KERNEL_TARGET
