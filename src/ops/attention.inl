// Softmax over causal blocks of scores.
#include "ops/attention.h"
#include "ops/kernels/vec.inl"

namespace vax::ops::VAX_KERNEL_TARGET {

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

const AttentionKernels attention_kernels = {.causal_softmax = causal_softmax,
                                            .causal_softmax_backward = causal_softmax_backward};

}  // namespace vax::ops::VAX_KERNEL_TARGET
