// Attention of generation: one new token per sequence, against the keys and values of all tokens
// before it, which a cache holds. Forward only; nothing is saved. Softmax and sums in fp32.
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <cstdint>
#include <span>

#include "ops/attention.h"
#include "ops/kernels/kernel.h"

namespace vax::ops {

// SHAPES q [B, H K]; k_cache, v_cache [slots, P, KV, K]: token b attends to positions
// [0, lengths[b]) of slot slots[b] (its own key and value are already there). o [B, H K] is
// written. slots and lengths [B] lie in the memory of the tensors.
void attention_decode(const at::Tensor& q_BC, const at::Tensor& k_cache, const at::Tensor& v_cache,
                      std::span<const int32_t> slots, std::span<const int32_t> lengths,
                      const AttentionShape& shape, at::Tensor& o_BC);

// Kernels: for attention_decode.cpp.

// A cache [slots, positions, kv heads, K]; strides in elements, K contiguous.
struct CacheView {
  const void* data;
  int64_t slot_stride, position_stride, head_stride;
};
struct AttentionDecodeArgs {
  int64_t num_heads, group, head_dim;  // group: query heads of one key head
  float scale;
  ConstRows q;
  Rows o;  // type of q and of the caches
  CacheView k, v;
  const int32_t *slots, *lengths;
};
struct AttentionDecodeKernels {
  RowKernel<AttentionDecodeArgs> decode;  // REQUIRES head_dim <= kMostDecodeDims
};
constexpr int64_t kMostDecodeDims = 256;
VAX_DEVICE_KERNELS(AttentionDecodeKernels, attention_decode_kernels);

}  // namespace vax::ops
