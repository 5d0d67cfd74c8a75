// AdamW in one pass: each thread takes 16 bytes of each array. Multiply-adds are written
// out: an element's bits do not depend on whether it was part of a vector, that is on how the
// weights are cut into slices.
#include "ops/adamw.h"
#include "ops/device/launch.h"

namespace vax::ops::device {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kWide = 4;

template <int N>
__device__ __forceinline__ void update(const AdamWArgs& args, int64_t at) {
  float weight[N], grad[N], m[N], v[N];
  load(args.weight + at, weight);
  load(args.grad + at, grad);
  load(args.exp_avg + at, m);
  load(args.exp_avg_sq + at, v);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float g = grad[i] * args.grad_scale;
    m[i] = fmaf(m[i], args.beta1, g * args.one_minus_beta1);
    v[i] = fmaf(v[i], args.beta2, g * g * args.one_minus_beta2);
    const float denominator = fmaf(sqrtf(v[i]), args.inv_sqrt_correction2, args.eps);
    weight[i] = fmaf(m[i] / denominator, -args.step_size, weight[i] * args.decay);
  }
  store(args.exp_avg + at, m);
  store(args.exp_avg_sq + at, v);
  store(args.weight + at, weight);
}

template <int N>
__global__ void __launch_bounds__(kThreads) adamw(AdamWArgs args, int64_t count) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (at + N <= count) {
    update<N>(args, at);
  } else {
    for (int64_t i = at; i < count; ++i) update<1>(args, i);
  }
}

bool aligned(const float* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

void launch_adamw(const AdamWArgs& args, int64_t, int64_t count) {
  const bool is_wide = aligned(args.weight) && aligned(args.grad) && aligned(args.exp_avg) &&
                       aligned(args.exp_avg_sq);
  const int64_t per_block = int64_t{kThreads} * (is_wide ? kWide : 1);
  launch(is_wide ? adamw<kWide> : adamw<1>, grid_of(blocks_for(count, per_block)), dim3(kThreads),
         args, count);
}

}  // namespace

const AdamWKernels adamw_kernels = {.update = launch_adamw};

}  // namespace vax::ops::device
