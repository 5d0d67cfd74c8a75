// Cross entropy of rows of logits with its gradient in place.
#include "ops/head_loss.h"
#include "ops/kernels/vec.inl"

namespace vax::ops::VAX_KERNEL_TARGET {

// The gradient needs exponentials that are stored in between; bf16 logits would round them, so they
// are computed a second time instead (T = Bf16).
template <typename T>
inline double cross_entropy_row(const CrossEntropyArgs& args, T* z, int64_t target) {
  const auto scale = static_cast<float>(*args.scale);
  const float largest = max_of(z, args.cols);
  const float z_target = load(z + target, Part{1})[0];
  const float sum = sum_over(args.cols, [&](int64_t i, auto part, VecF sum_so_far) {
    const VecF e = exp(load(z + i, part) - largest);
    if constexpr (sizeof(T) == sizeof(float)) {
      if (args.with_gradient) store(z + i, e, part);
    }
    return sum_so_far + existing_or(e, VecF{}, part);
  });
  if (args.with_gradient) {
    const float factor = scale / sum;
    const float p_target = __builtin_expf(z_target - largest) / sum;
    for_vectors(0, args.cols, [&](int64_t i, auto part) {
      VecF e = load(z + i, part);
      if constexpr (sizeof(T) != sizeof(float)) e = exp(e - largest);
      store(z + i, e * factor, part);
    });
    store(z + target, splat(scale * (p_target - 1.0f)), Part{1});
  }
  return static_cast<double>(largest) - static_cast<double>(z_target) +
         __builtin_log(static_cast<double>(sum));
}

void cross_entropy(const CrossEntropyArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    if (args.z.elem == Elem::kFloat) {
      args.losses[row] = cross_entropy_row(args, row_of<float>(args.z, row), args.targets[row]);
    } else {
      args.losses[row] = cross_entropy_row(args, row_of<Bf16>(args.z, row), args.targets[row]);
    }
  }
}

const HeadLossKernels head_loss_kernels = {.cross_entropy = cross_entropy};

}  // namespace vax::ops::VAX_KERNEL_TARGET
