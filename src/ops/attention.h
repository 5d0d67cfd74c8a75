// Causal attention over packed sequences with grouped queries. Within sequence s, query head h
// attends with key/value head g = h / (num_heads / num_kv_heads):
//   P = softmax(scale * q k^T + causal mask)     o = P v
//   dv += P^T do     dS = P * (do v^T - delta), delta = rowsum(do * o)     dq = scale * dS k
//   dk += scale * dS^T q
// Saved by the caller: qkv, o and lse (log-sum-exp of the masked scores, 4 bytes per token and
// head); P is computed again by blocks, so memory does not grow with the square of the length.
// Softmax and sums in fp32.
// THROWS std::logic_error where a shape, a type or the device of a tensor does not fit.
#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstdint>
#include <span>

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

// Generation: one new token per sequence. q [B, H K]; k_cache, v_cache [slots, P, KV, K]: token b
// attends to positions [0, lengths[b]) of slot slots[b] (its own key and value are already there).
// o [B, H K] is written. slots and lengths [B] lie in the memory of the tensors.
void attention_decode(const at::Tensor& q_BC, const at::Tensor& k_cache, const at::Tensor& v_cache,
                      std::span<const int32_t> slots, std::span<const int32_t> lengths,
                      const AttentionShape& shape, at::Tensor& o_BC);

}  // namespace vax::ops
