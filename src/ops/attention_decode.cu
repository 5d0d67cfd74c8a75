// Generation: one query row against its slot of the cache. A block is one query head of one token;
// its warps take the positions in turn, each with a running maximum, and are joined in order.
#include "ops/attention_decode.h"
#include "ops/device/launch.h"

namespace vax::ops::device {
namespace {

constexpr int kWarps = 4;

template <typename T>
__device__ __forceinline__ const T* cached_head(const CacheView& cache, int64_t slot,
                                                int64_t kv_head) {
  return static_cast<const T*>(cache.data) + slot * cache.slot_stride + kv_head * cache.head_stride;
}

// What a warp knows of the positions it has seen: sum and out are relative to exp(maximum).
template <int kDims>
struct Running {
  float maximum, sum, out[kDims];
};

// kDims: elements of a head in one lane, lane + 32 * j.
template <typename T, int kDims>
__device__ __forceinline__ Running<kDims> attend(const AttentionDecodeArgs& args, const T* q,
                                                 const T* keys, const T* values, int64_t length) {
  const unsigned warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  float q_dims[kDims];
#pragma unroll
  for (int j = 0; j < kDims; ++j) {
    const int64_t dim = lane + j * kWarpSize;
    q_dims[j] = dim < args.head_dim ? to_float(q[dim]) * args.scale : 0.0f;
  }
  Running<kDims> state = {-INFINITY, 0.0f, {}};
  for (int64_t position = warp; position < length; position += kWarps) {
    const T* key = keys + position * args.k.position_stride;
    const T* value = values + position * args.v.position_stride;
    float dot = 0.0f, v_dims[kDims];
#pragma unroll
    for (int j = 0; j < kDims; ++j) {
      const int64_t dim = lane + j * kWarpSize;
      const bool exists = dim < args.head_dim;
      dot = fmaf(q_dims[j], exists ? to_float(key[dim]) : 0.0f, dot);
      v_dims[j] = exists ? to_float(value[dim]) : 0.0f;
    }
    const float score = warp_sum(dot);
    const float maximum = fmaxf(state.maximum, score);
    const float kept = expf(state.maximum - maximum), weight = expf(score - maximum);
    state.maximum = maximum;
    state.sum = fmaf(state.sum, kept, weight);
#pragma unroll
    for (int j = 0; j < kDims; ++j) state.out[j] = fmaf(state.out[j], kept, weight * v_dims[j]);
  }
  return state;
}

template <typename T, int kDims>
__global__ void __launch_bounds__(kWarps* kWarpSize) attention_decode(AttentionDecodeArgs args) {
  VAX_SHARED(float, maxima, [kWarps]);
  VAX_SHARED(float, sums, [kWarps]);
  VAX_SHARED(float, outs, [kWarps][kDims * kWarpSize]);
  const unsigned warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int64_t token = blockIdx.x / args.num_heads, head = blockIdx.x % args.num_heads;
  const int64_t slot = args.slots[token], kv_head = head / args.group;
  const auto state = attend<T, kDims>(args, row_of<T>(args.q, token) + head * args.head_dim,
                                      cached_head<T>(args.k, slot, kv_head),
                                      cached_head<T>(args.v, slot, kv_head), args.lengths[token]);
  if (lane == 0) {
    maxima[warp] = state.maximum;
    sums[warp] = state.sum;
  }
#pragma unroll
  for (int j = 0; j < kDims; ++j) outs[warp][lane + j * kWarpSize] = state.out[j];
  __syncthreads();
  float maximum = maxima[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) maximum = fmaxf(maximum, maxima[w]);
  float shares[kWarps], total = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    shares[w] = sums[w] > 0.0f ? expf(maxima[w] - maximum) : sums[w];  // NaN stays
    total = fmaf(shares[w], sums[w], total);
  }
  T* o = row_of<T>(args.o, token) + head * args.head_dim;
  for (int64_t dim = threadIdx.x; dim < args.head_dim; dim += kWarps * kWarpSize) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum = fmaf(shares[w], outs[w][dim], sum);
    o[dim] = from_float<T>(sum / total);
  }
}

void launch_attention_decode(const AttentionDecodeArgs& args, int64_t, int64_t num_tokens) {
  with_elem(args.q.elem, [&](auto element) {
    using T = decltype(element);
    const auto kernel = args.head_dim <= 64    ? attention_decode<T, 2>
                        : args.head_dim <= 128 ? attention_decode<T, 4>
                                               : attention_decode<T, kMostDecodeDims / kWarpSize>;
    launch(kernel, grid_of(num_tokens * args.num_heads), dim3(kWarps * kWarpSize), args);
  });
}

}  // namespace

const AttentionDecodeKernels attention_decode_kernels = {.decode = launch_attention_decode};

}  // namespace vax::ops::device
