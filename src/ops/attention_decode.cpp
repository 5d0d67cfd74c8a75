// One query row per head, so the products with the cache are thin and memory-bound.
#include "ops/attention_decode.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/error.h"
#include "ops/device/runtime.h"
#include "ops/float_rows.h"
#include "ops/parallel.h"
#include "ops/rows.h"
#include "ops/scratch.h"
#include "ops/tensor_rows.h"
#include "ops/thin_product.h"

namespace vax::ops {
namespace {

void check_decode(const at::Tensor& q_BC, const at::Tensor& k_cache, const at::Tensor& v_cache,
                  std::span<const int32_t> slots, std::span<const int32_t> lengths,
                  const AttentionShape& shape, const at::Tensor& o_BC) {
  VAX_CHECK(shape.num_kv_heads > 0 && shape.num_heads % shape.num_kv_heads == 0, shape.num_heads,
            " query heads must be a multiple of ", shape.num_kv_heads, " key heads");
  VAX_CHECK(k_cache.dim() == 4, "k_cache has shape ", k_cache.sizes(),
            ", expected [slots, P, KV, K]");
  const int64_t num_slots = k_cache.size(0), num_positions = k_cache.size(1);
  check_tensor(k_cache, "k_cache", {num_slots, num_positions, shape.num_kv_heads, shape.head_dim},
               Types::kFloatOrBf16);
  check_tensor(v_cache, "v_cache", k_cache.sizes(), Types::kFloatOrBf16);
  const int64_t num_tokens = std::ssize(slots);
  check_tensor(q_BC, "q", {num_tokens, shape.num_heads * shape.head_dim}, Types::kFloatOrBf16);
  check_tensor(o_BC, "o", q_BC.sizes(), Types::kFloatOrBf16);
  check_same_type(k_cache, "k_cache", q_BC, "q");
  check_same_type(v_cache, "v_cache", q_BC, "q");
  check_same_type(o_BC, "o", q_BC, "q");
  VAX_CHECK(lengths.size() == slots.size(), lengths.size(), " lengths for ", slots.size(),
            " slots");
}

void check_slots(std::span<const int32_t> slots, std::span<const int32_t> lengths,
                 int64_t num_slots, int64_t num_positions) {
  for (size_t b = 0; b < slots.size(); ++b) {
    VAX_CHECK(slots[b] >= 0 && slots[b] < num_slots, "slot ", slots[b], " of token ", b,
              " is outside the cache's ", num_slots);
    VAX_CHECK(lengths[b] >= 1 && lengths[b] <= num_positions, "length ", lengths[b], " of token ",
              b, " is outside [1, ", num_positions, "]");
  }
}

// [length, K] of one head in one slot.
ConstRows cached_head(const at::Tensor& cache, int64_t slot, int64_t kv_head) {
  const ConstRows positions{cache.const_data_ptr(), const_rows(cache).elem, cache.stride(1)};
  return from(positions, 0, slot * cache.stride(0) + kv_head * cache.stride(2));
}

CacheView cache_view(const at::Tensor& cache) {
  return {cache.const_data_ptr(), cache.stride(0), cache.stride(1), cache.stride(2)};
}

// Per-thread state; one call per token and key/value head.
class Decode {
 public:
  Decode(const AttentionShape& shape, ConstRows q, Rows o)
      : shape_(shape), group_(shape.num_heads / shape.num_kv_heads), q_(q), o_(o) {}

  void run(int64_t token, int64_t kv_head, ConstRows keys, ConstRows values, int64_t length) {
    const int64_t dim = shape_.head_dim, col = kv_head * group_ * dim;
    ConstRows q_heads = from(q_, token, col);
    q_heads.stride = dim;
    const auto q = float_q_.get(q_heads, group_, dim);
    const auto k = float_k_.get(keys, length, dim);
    const auto v = float_v_.get(values, length, dim);
    scores_.resize(static_cast<size_t>(group_ * length));
    inv_sum_.resize(static_cast<size_t>(group_));
    out_.assign(static_cast<size_t>(group_ * dim), 0.0f);
    ThinArgs thin{.rows = group_,
                  .cols = dim,
                  .rank = length,
                  .u = scores_.data(),
                  .u_stride = length,
                  .a = k.data,
                  .a_stride = k.stride};
    thin_product_kernels.cpu().xat(thin, q.data, q.stride);
    for (int64_t i = 0; i < group_; ++i) softmax(i, length);
    thin.a = v.data;
    thin.a_stride = v.stride;
    const Rows out{out_.data(), Elem::kFloat, dim};
    thin_product_kernels.cpu().ua(thin, out, nullptr, 0);
    Rows o_heads = from(o_, token, col);
    o_heads.stride = dim;
    rows_kernels.cpu().convert(
        {.cols = dim, .src = out, .dst = o_heads, .row_scale = inv_sum_.data()}, group_);
  }

 private:
  void softmax(int64_t head, int64_t length) {
    float unused_lse = 0;
    attention_kernels.cpu().causal_softmax({.rows = 1,
                                            .cols = length,
                                            .scores = scores_.data() + head * length,
                                            .stride = length,
                                            .first_length = length,
                                            .scale = static_cast<float>(shape_.scale),
                                            .lse_stride = 1},
                                           inv_sum_.data() + head, &unused_lse);
  }

  AttentionShape shape_;
  int64_t group_;
  ConstRows q_;
  Rows o_;
  FloatRows float_q_, float_k_, float_v_;
  FloatScratch scores_, inv_sum_, out_;
};

}  // namespace

void attention_decode(const at::Tensor& q_BC, const at::Tensor& k_cache, const at::Tensor& v_cache,
                      std::span<const int32_t> slots, std::span<const int32_t> lengths,
                      const AttentionShape& shape, at::Tensor& o_BC) {
  check_decode(q_BC, k_cache, v_cache, slots, lengths, shape, o_BC);
  if (device::takes(q_BC)) {
    VAX_CHECK(shape.head_dim <= kMostDecodeDims, "heads of dimension ", shape.head_dim,
              " are larger than ", kMostDecodeDims, ", which is what decoding on a device takes");
    return attention_decode_kernels.device().decode({.num_heads = shape.num_heads,
                                                     .group = shape.num_heads / shape.num_kv_heads,
                                                     .head_dim = shape.head_dim,
                                                     .scale = static_cast<float>(shape.scale),
                                                     .q = const_rows(q_BC),
                                                     .o = mutable_rows(o_BC),
                                                     .k = cache_view(k_cache),
                                                     .v = cache_view(v_cache),
                                                     .slots = slots.data(),
                                                     .lengths = lengths.data()},
                                                    0, q_BC.size(0));
  }
  check_slots(slots, lengths, k_cache.size(0), k_cache.size(1));
  const ConstRows q = const_rows(q_BC);
  const Rows o = mutable_rows(o_BC);
  const int64_t num_tasks = std::ssize(slots) * shape.num_kv_heads;
  parallel_for(0, num_tasks, 1, [&](int64_t first, int64_t last) {
    Decode decode(shape, q, o);
    for (int64_t task = first; task < last; ++task) {
      const int64_t token = task / shape.num_kv_heads, kv_head = task % shape.num_kv_heads;
      const auto b = static_cast<size_t>(token);
      decode.run(token, kv_head, cached_head(k_cache, slots[b], kv_head),
                 cached_head(v_cache, slots[b], kv_head), lengths[b]);
    }
  });
}

}  // namespace vax::ops
