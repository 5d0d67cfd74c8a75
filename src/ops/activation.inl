// Activations, element by element. The distribution function of the normal distribution comes from
//   erfc(z) = exp(-z^2) t Q(t), t = 1 / (1 + 0.4 z), z >= 0
// with Q the polynomial whose largest relative error is smallest (fitted in double: 1.3e-7; in fp32
// with roundings 4.4e-7), so that small tails are as exact as the rest.
#include "ops/activation.h"
#include "ops/kernels/vec.inl"

namespace vax::ops::VAX_KERNEL_TARGET {

struct NormalAt {
  VecF below;    // probability of being below x
  VecF density;  // exp(-x^2 / 2)
};

inline NormalAt normal_at(VecF x) {
  const VecF size = x < 0.0f ? -x : x;
  const VecF t = 1.0f / multiply_add(size, 0.4f * 0.70710678f, splat(1.0f));
  VecF q = splat(0.05029333755373955f);
  q = multiply_add(q, t, splat(-0.18302887678146362f));
  q = multiply_add(q, t, splat(0.16929863393306732f));
  q = multiply_add(q, t, splat(-0.005795860663056374f));
  q = multiply_add(q, t, splat(0.14152561128139496f));
  q = multiply_add(q, t, splat(0.1685154289007187f));
  q = multiply_add(q, t, splat(0.20784664154052734f));
  q = multiply_add(q, t, splat(0.22566933929920197f));
  q = multiply_add(q, t, splat(0.22567586600780487f));
  const VecF density = exp(x * x * -0.5f);
  const VecF tail = q * t * density * 0.5f;
  return {x < 0.0f ? tail : 1.0f - tail, density};
}

// out = f(x), or out = f(dy, x), for rows of one type.
template <typename F>
inline void for_elements(const ActivationArgs& args, int64_t begin, int64_t end, F f) {
  for (int64_t row = begin; row < end; ++row) {
    with_row(args.out, row, [&](auto* out) {
      using T = RowElem<decltype(out)>;
      const T* x = row_of<T>(args.x, row);
      const T* dy = args.dy.data == nullptr ? x : row_of<T>(args.dy, row);
      for_vectors(0, args.cols, [&](int64_t i, auto part) {
        store(out + i, f(load(x + i, part), load(dy + i, part)), part);
      });
    });
  }
}

// What is no number stays so.
void relu(const ActivationArgs& args, int64_t begin, int64_t end) {
  for_elements(args, begin, end, [](VecF x, VecF) { return max(x, VecF{}); });
}

void relu_backward(const ActivationArgs& args, int64_t begin, int64_t end) {
  for_elements(args, begin, end, [](VecF x, VecF dy) { return x <= 0.0f ? VecF{} : dy; });
}

void gelu(const ActivationArgs& args, int64_t begin, int64_t end) {
  for_elements(args, begin, end, [](VecF x, VecF) { return x * normal_at(x).below; });
}

void gelu_backward(const ActivationArgs& args, int64_t begin, int64_t end) {
  constexpr float kInvSqrt2Pi = 0.3989422804f;
  for_elements(args, begin, end, [](VecF x, VecF dy) {
    const NormalAt at = normal_at(x);
    return dy * multiply_add(x, at.density * kInvSqrt2Pi, at.below);
  });
}

const ActivationKernels activation_kernels = {
    .relu = relu, .relu_backward = relu_backward, .gelu = gelu, .gelu_backward = gelu_backward};

}  // namespace vax::ops::VAX_KERNEL_TARGET
