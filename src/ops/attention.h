// Causal attention over packed sequences with grouped queries. Within sequence s, query head h
// attends with key/value head g = h / (num_heads / num_kv_heads):
//   P = softmax(scale * q k^T + causal mask)     o = P v
//   dv += P^T do     dS = P * (do v^T - delta), delta = rowsum(do * o)     dq = scale * dS k
//   dk += scale * dS^T q
// Saved by the caller: qkv, o and lse (log-sum-exp of the masked scores, 4 bytes per token and
// head); P is computed again by blocks, so memory does not grow with the square of the length.
// Softmax and sums in fp32.
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include "ops/kernels/kernel.h"

namespace vax::ops {

// Where packed sequences begin. `offsets` [sequences + 1] as in PackedBatch, in the memory of the
// tensors. `longest`: no sequence has more tokens; needed where the offsets lie in device memory.
struct SequenceOffsets {
  std::span<const int32_t> offsets;
  int64_t longest = 0;

  SequenceOffsets(std::span<const int32_t> values, int64_t longest_sequence)
      : offsets(values), longest(longest_sequence) {}
  // In host memory.
  template <typename Offsets>
  requires std::convertible_to<const Offsets&, std::span<const int32_t>> SequenceOffsets(
      const Offsets& values)
      : offsets(values) {}
};

struct AttentionShape {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  double scale = 0;  // 1 / sqrt(head_dim)
};

// SHAPES qkv [T, (H + 2 KV) K]: query heads, key heads, value heads side by side; o [T, H K]
// (written, type of qkv); lse [T, H] fp32 (written; its order of elements is the operator's own
// affair: only attention_backward() reads it).
void attention_forward(const at::Tensor& qkv_TC, const AttentionShape& shape,
                       const SequenceOffsets& sequences, at::Tensor& o_TC, at::Tensor& lse_TH);
// dqkv [T, (H + 2 KV) K] is written, type of qkv.
void attention_backward(const at::Tensor& do_TC, const at::Tensor& qkv_TC, const at::Tensor& o_TC,
                        const at::Tensor& lse_TH, const AttentionShape& shape,
                        const SequenceOffsets& sequences, at::Tensor& dqkv_TC);

// Kernels: for attention.cpp and attention_decode.cpp.

struct CausalArgs {
  int64_t rows, cols;
  float* scores;  // q k^T, not yet scaled
  int64_t stride;
  int64_t first_length;  // row i sees columns [0, first_length + i)
  float scale;
  int64_t lse_stride;
};
// The logarithms of one head's sums side by side for all tokens, packed [H, T], and as some of
// LibTorch's operators keep them, padded [sequences, H, padded_length].
struct LseArgs {
  const int32_t* offsets;
  int64_t num_sequences, num_heads, num_tokens, padded_length;
};
struct AttentionKernels {
  // Of a CPU. scores := exp(scale * scores - max) with zeros beyond a row's length; inv_sum[i] = 1
  // / its sum; lse[i * lse_stride] = log sum exp(scale * scores).
  void (*causal_softmax)(const CausalArgs&, float* inv_sum, float* lse) = nullptr;
  // scores := P = exp(scale * scores - lse);  dp := P * (dp - delta). dp has the scores' stride.
  void (*causal_softmax_backward)(const CausalArgs&, const float* lse, const float* delta,
                                  float* dp) = nullptr;
  // Of a device; pad_lse is infinite beyond a sequence's end.
  void (*pack_lse)(const LseArgs&, const float* padded, float* packed) = nullptr;
  void (*pad_lse)(const LseArgs&, const float* packed, float* padded) = nullptr;
};
VAX_KERNELS(AttentionKernels, attention_kernels);

}  // namespace vax::ops
