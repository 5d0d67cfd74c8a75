// Rotary embedding of one token at a time.
#include "ops/kernels/vec.inl"
#include "ops/rotary.h"

namespace vax::ops::VAX_KERNEL_TARGET {

template <typename T>
inline void rotate_head(T* x, const float* cos, const float* sin, int64_t half_dim, float sign) {
  for_vectors(0, half_dim, [&](int64_t i, auto part) {
    const VecF x1 = load(x + i, part);
    const VecF x2 = load(x + half_dim + i, part);
    const VecF c = load(cos + i, part);
    const VecF s = load(sin + i, part) * sign;
    store(x + i, multiply_add(x1, c, -(x2 * s)), part);
    store(x + half_dim + i, multiply_add(x2, c, x1 * s), part);
  });
}

void rotary(const RotaryArgs& args, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    const int64_t angles = args.positions[token] * args.angle_stride;
    with_row(args.x, token, [&](auto* x) {
      for (int64_t head = 0; head < args.num_heads; ++head) {
        rotate_head(x + head * args.head_stride, args.cos + angles, args.sin + angles,
                    args.half_dim, args.sign);
      }
    });
  }
}

const RotaryKernels rotary_kernels = {.rotate = rotary};

}  // namespace vax::ops::VAX_KERNEL_TARGET
