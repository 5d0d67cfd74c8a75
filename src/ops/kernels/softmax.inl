// Softmax over causal score blocks, and cross entropy with its gradient in place.

namespace vax::ops::VAX_KERNEL_TARGET {

inline VecF existing_or(VecF v, VecF, Full) { return v; }
inline VecF existing_or(VecF v, VecF other, Part part) {
  return kIota < splat_i(static_cast<int32_t>(part.count)) ? v : other;
}

// Largest of n >= 1 elements. A NaN may be lost; the exponentials that follow bring it back.
template <typename T>
inline float max_of(const T* from, int64_t n) {
  VecF largest = splat(load(from, Part{1})[0]);
  for_vectors(0, n, [&](int64_t i, auto part) {
    largest = max(existing_or(load(from + i, part), largest, part), largest);
  });
  return max_lanes(largest);
}

void causal_softmax(const CausalArgs& args, float* inv_sum, float* lse) {
  for (int64_t row = 0; row < args.rows; ++row) {
    float* scores = args.scores + row * args.stride;
    const int64_t length = args.first_length + row;
    const float largest = max_of(scores, length);
    const float sum = sum_over(length, [&](int64_t i, auto part, VecF sum_so_far) {
      const VecF p = exp((load(scores + i, part) - largest) * args.scale);
      store(scores + i, p, part);
      return sum_so_far + existing_or(p, VecF{}, part);
    });
    for (int64_t i = length; i < args.cols; ++i) scores[i] = 0;
    inv_sum[row] = 1.0f / sum;
    lse[row * args.lse_stride] = largest * args.scale + __builtin_logf(sum);
  }
}

void causal_softmax_backward(const CausalArgs& args, const float* lse, const float* delta,
                             float* dp) {
  for (int64_t row = 0; row < args.rows; ++row) {
    float* scores = args.scores + row * args.stride;
    float* ds = dp + row * args.stride;
    const float row_lse = lse[row * args.lse_stride];
    const float row_delta = delta[row];
    const int64_t length = args.first_length + row;
    for_vectors(0, length, [&](int64_t i, auto part) {
      const VecF p = exp(multiply_add(load(scores + i, part), args.scale, splat(-row_lse)));
      store(scores + i, p, part);
      store(ds + i, p * (load(ds + i, part) - row_delta), part);
    });
    for (int64_t i = length; i < args.cols; ++i) scores[i] = ds[i] = 0;
  }
}

// The gradient needs exponentials that are stored in between; bf16 logits would round them, so they
// are computed a second time instead (T = Bf16).
template <typename T>
inline double cross_entropy_row(const CrossEntropyArgs& args, T* z, int64_t target) {
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
    const float factor = args.scale / sum;
    const float p_target = __builtin_expf(z_target - largest) / sum;
    for_vectors(0, args.cols, [&](int64_t i, auto part) {
      VecF e = load(z + i, part);
      if constexpr (sizeof(T) != sizeof(float)) e = exp(e - largest);
      store(z + i, e * factor, part);
    });
    store(z + target, splat(args.scale * (p_target - 1.0f)), Part{1});
  }
  return static_cast<double>(largest) - static_cast<double>(z_target) +
         __builtin_log(static_cast<double>(sum));
}

void cross_entropy(const CrossEntropyArgs& args, int64_t begin, int64_t end, double* losses) {
  for (int64_t row = begin; row < end; ++row) {
    if (args.z.elem == Elem::kFloat) {
      losses[row] = cross_entropy_row(args, row_of<float>(args.z, row), args.targets[row]);
    } else {
      losses[row] = cross_entropy_row(args, row_of<Bf16>(args.z, row), args.targets[row]);
    }
  }
}

}  // namespace vax::ops::VAX_KERNEL_TARGET
