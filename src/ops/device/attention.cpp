// Attention by LibTorch: flash attention in bf16, its memory-efficient attention in fp32 (which
// flash attention does not know). q, k and v are views of the fused matrix; what LibTorch allocates
// (o, dq, dk, dv) is copied to where it belongs, one pass over memory each way.
//
// lse holds the logarithms as [H, T].
#include <ATen/ATen.h>

#include <algorithm>

#include "base/error.h"
#include "ops/device/library.h"
#include "ops/device/ops.h"
#include "ops/device/product_kernels.h"
#include "ops/device/runtime.h"
#include "ops/tensor_rows.h"

namespace vax::ops::device {
namespace {

constexpr int64_t kDimMultiple = 8;

int64_t padded_dim(int64_t head_dim) {
  return (head_dim + kDimMultiple - 1) / kDimMultiple * kDimMultiple;
}

bool begins_rows_aligned(const at::Tensor& x_THK) {
  constexpr int64_t kAlignment = 16;  // bytes, of the kernels' loads
  return reinterpret_cast<uintptr_t>(x_THK.const_data_ptr()) % kAlignment == 0 &&
         x_THK.stride(0) * x_THK.element_size() % kAlignment == 0;
}

// Heads as the kernels take them: zeros pad their dimension, which changes no score and no other
// result; rows that begin elsewhere than they may are copied.
at::Tensor kernel_heads(const at::Tensor& x_THK) {
  const int64_t head_dim = x_THK.size(2), padding = padded_dim(head_dim) - head_dim;
  if (padding > 0) return at::constant_pad_nd(x_THK, {0, padding});
  return begins_rows_aligned(x_THK) ? x_THK : x_THK.contiguous();
}

// [T, heads, K] of columns from `first` head on.
at::Tensor heads_of(const at::Tensor& x_TC, const AttentionShape& shape, int64_t first,
                    int64_t count) {
  return x_TC.narrow(1, first * shape.head_dim, count * shape.head_dim)
      .unflatten(1, {count, shape.head_dim});
}

at::Tensor query_heads(const at::Tensor& x_TC, const AttentionShape& shape) {
  return kernel_heads(heads_of(x_TC, shape, 0, shape.num_heads));
}

// Each key head once per query head.
at::Tensor repeated(const at::Tensor& x_TGK, int64_t times) {
  return times == 1 ? x_TGK : at::repeat_interleave(x_TGK, times, 1);
}
at::Tensor summed(const at::Tensor& x_THK, int64_t times) {
  return times == 1 ? x_THK : x_THK.unflatten(1, {-1, times}).sum(2);
}

bool is_float(const at::Tensor& qkv_TC) { return qkv_TC.scalar_type() == at::kFloat; }

AttentionInput attention_input(const at::Tensor& qkv_TC, const AttentionShape& shape,
                               const SequenceOffsets& sequences) {
  const auto num_offsets = static_cast<int64_t>(sequences.offsets.size());
  VAX_CHECK(num_offsets > 1 && sequences.longest > 0,
            "attention on a device needs its sequences and the length of the longest, not ",
            num_offsets - 1, " sequences of at most ", sequences.longest, " tokens");
  const int64_t heads = shape.num_heads, kv_heads = shape.num_kv_heads;
  AttentionInput input{
      .q_THK = query_heads(qkv_TC, shape),
      .k_TGK = kernel_heads(heads_of(qkv_TC, shape, heads, kv_heads)),
      .v_TGK = kernel_heads(heads_of(qkv_TC, shape, heads + kv_heads, kv_heads)),
      // LibTorch only reads them.
      .offsets = at::for_blob(const_cast<int32_t*>(sequences.offsets.data()), {num_offsets})
                     .options(qkv_TC.options().dtype(at::kInt))
                     .target_device(qkv_TC.device())
                     .make_tensor(),
      .longest = sequences.longest,
      .scale = shape.scale};
  if (is_float(qkv_TC)) {
    input.k_TGK = repeated(input.k_TGK, heads / kv_heads);
    input.v_TGK = repeated(input.v_TGK, heads / kv_heads);
    input.longest = std::min(input.longest, qkv_TC.size(0));
  } else {
    // Sequences of one token have another path in LibTorch, with another lse and without empty
    // sequences.
    input.longest = std::max<int64_t>(input.longest, 2);
  }
  return input;
}

LseArgs lse_args(const AttentionInput& input) {
  return {.offsets = input.offsets.const_data_ptr<int32_t>(),
          .num_sequences = input.offsets.size(0) - 1,
          .num_heads = input.q_THK.size(1),
          .num_tokens = input.q_THK.size(0),
          .padded_length = (input.longest + kLseMultiple - 1) / kLseMultiple * kLseMultiple};
}

at::Tensor padded_lse(const AttentionInput& input, const at::Tensor& lse_TH) {
  const LseArgs args = lse_args(input);
  at::Tensor padded =
      at::empty({args.num_sequences, args.num_heads, args.padded_length}, lse_TH.options());
  launch_pad_lse(args, lse_TH.const_data_ptr<float>(), padded.mutable_data_ptr<float>(),
                 compute_stream());
  return padded;
}

// Without the padding of heads: [T, heads * K].
at::Tensor columns(const at::Tensor& x_THK, const AttentionShape& shape) {
  return x_THK.narrow(2, 0, shape.head_dim).flatten(1);
}

}  // namespace

void attention_forward(const at::Tensor& qkv_TC, const AttentionShape& shape,
                       const SequenceOffsets& sequences, at::Tensor& o_TC, at::Tensor& lse_TH) {
  if (qkv_TC.size(0) == 0) return;
  VAX_CHECK(lse_TH.is_contiguous(), "lse must be contiguous");
  const AttentionInput input = attention_input(qkv_TC, shape, sequences);
  AttentionOutput output;
  if (is_float(qkv_TC)) {
    output = efficient_attention(input);
    launch_pack_lse(lse_args(input), output.lse.const_data_ptr<float>(),
                    lse_TH.mutable_data_ptr<float>(), compute_stream());
  } else {
    output = flash_attention(input);
    lse_TH.view({shape.num_heads, qkv_TC.size(0)}).copy_(output.lse);
  }
  o_TC.copy_(columns(output.o_THK, shape));
}

void attention_backward(const at::Tensor& do_TC, const at::Tensor& qkv_TC, const at::Tensor& o_TC,
                        const at::Tensor& lse_TH, const AttentionShape& shape,
                        const SequenceOffsets& sequences, at::Tensor& dqkv_TC) {
  if (qkv_TC.size(0) == 0) return;
  VAX_CHECK(lse_TH.is_contiguous(), "lse must be contiguous");
  const AttentionInput input = attention_input(qkv_TC, shape, sequences);
  // Both kernels want these two without gaps.
  const at::Tensor d_o = query_heads(do_TC, shape).contiguous();
  const at::Tensor o = query_heads(o_TC, shape).contiguous();
  AttentionGradients grads;
  if (is_float(qkv_TC)) {
    grads = efficient_attention_backward(input, d_o, o, padded_lse(input, lse_TH));
    const int64_t times = shape.num_heads / shape.num_kv_heads;
    grads.dk_TGK = summed(grads.dk_TGK, times);
    grads.dv_TGK = summed(grads.dv_TGK, times);
  } else {
    grads = flash_attention_backward(input, d_o, o, lse_TH.view({shape.num_heads, qkv_TC.size(0)}));
  }
  at::cat_out(
      dqkv_TC,
      {columns(grads.dq_THK, shape), columns(grads.dk_TGK, shape), columns(grads.dv_TGK, shape)},
      1);
}

void attention_decode(const at::Tensor& q_BC, const at::Tensor& k_cache, const at::Tensor& v_cache,
                      const int32_t* slots, const int32_t* lengths, const AttentionShape& shape,
                      at::Tensor& o_BC) {
  VAX_CHECK(shape.head_dim <= kMostDecodeDims, "heads of dimension ", shape.head_dim,
            " are larger than ", kMostDecodeDims, ", which is what decoding on a device takes");
  const auto view = [](const at::Tensor& cache) -> CacheView {
    return {cache.const_data_ptr(), cache.stride(0), cache.stride(1), cache.stride(2)};
  };
  launch_attention_decode({.num_heads = shape.num_heads,
                           .group = shape.num_heads / shape.num_kv_heads,
                           .head_dim = shape.head_dim,
                           .scale = static_cast<float>(shape.scale),
                           .q = const_rows(q_BC),
                           .o = mutable_rows(o_BC),
                           .k = view(k_cache),
                           .v = view(v_cache),
                           .slots = slots,
                           .lengths = lengths},
                          q_BC.size(0), compute_stream());
}

}  // namespace vax::ops::device
