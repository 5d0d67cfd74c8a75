// The saved logarithms of attention between the packed form, which the program keeps, and the
// padded one of LibTorch's fp32 operator. A block is one head of one sequence.
#include "ops/attention.h"
#include "ops/device/launch.h"

namespace vax::ops::device {
namespace {

constexpr int kThreads = 128;

// Where the sequence's logarithms begin.
struct LsePlace {
  int64_t length, packed, padded;
};

__device__ __forceinline__ LsePlace lse_place(const LseArgs& args) {
  const int64_t sequence = blockIdx.x / args.num_heads, head = blockIdx.x % args.num_heads;
  const int64_t begin = args.offsets[sequence];
  return {args.offsets[sequence + 1] - begin, head * args.num_tokens + begin,
          blockIdx.x * args.padded_length};
}

__global__ void pack_lse(LseArgs args, const float* padded, float* packed) {
  const LsePlace at = lse_place(args);
  for (int64_t i = threadIdx.x; i < at.length; i += kThreads) {
    packed[at.packed + i] = padded[at.padded + i];
  }
}

__global__ void pad_lse(LseArgs args, const float* packed, float* padded) {
  const LsePlace at = lse_place(args);
  for (int64_t i = threadIdx.x; i < args.padded_length; i += kThreads) {
    padded[at.padded + i] = i < at.length ? packed[at.packed + i] : INFINITY;
  }
}

dim3 grid(const LseArgs& args) { return grid_of(args.num_sequences * args.num_heads); }

void launch_pack_lse(const LseArgs& args, const float* padded, float* packed) {
  launch(pack_lse, grid(args), dim3(kThreads), args, padded, packed);
}

void launch_pad_lse(const LseArgs& args, const float* packed, float* padded) {
  launch(pad_lse, grid(args), dim3(kThreads), args, packed, padded);
}

}  // namespace

const AttentionKernels attention_kernels = {.pack_lse = launch_pack_lse, .pad_lse = launch_pad_lse};

}  // namespace vax::ops::device
