// What both halves of a block know: dimensions, constants, and where the tokens of the micro-batch
// stand.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "model/decoder/fp8_weights.h"
#include "model/lora.h"
#include "ops/attention.h"
#include "ops/dropout.h"

namespace vax::model {

struct BlockDims {
  int64_t hidden_size = 0;        // D
  int64_t intermediate_size = 0;  // F
  ops::AttentionShape attention;  // H, KV, K
  double norm_eps = 0;
  at::ScalarType compute_dtype = at::kFloat;
  LoraSpec lora;
  bool train_base = false;

  int64_t query_width() const { return attention.num_heads * attention.head_dim; }
  int64_t kv_width() const { return attention.num_kv_heads * attention.head_dim; }
  int64_t qkv_width() const { return query_width() + 2 * kv_width(); }
};

// Keys (rotated) and values of one layer over the sequences of a generation, compute type:
// [slots, P, KV, K].
struct KeyValues {
  at::Tensor k;
  at::Tensor v;
};

// Where the tokens of a batch go in such a cache. Borrowed host memory.
struct CachePlaces {
  std::span<const int32_t> slots;    // [sequences]
  std::span<const int32_t> offsets;  // [sequences + 1], as in PackedBatch
  // Of one new token each, on the model's device: its slot, and the tokens in it with this one,
  // int32 [sequences]. Undefined: the sequences are whole prompts.
  at::Tensor slots_B, lengths_B;
};

// Borrowed: everything must outlive the call it is passed to.
struct BlockContext {
  const BlockDims& dims;
  int layer;
  ops::SequenceOffsets sequences;
  at::Tensor positions_T;  // int32
  const at::Tensor& cos_PK;
  const at::Tensor& sin_PK;
  ops::DropoutKey dropout;    // site is set per projection
  Fp8Weights* fp8 = nullptr;  // the products of linear layers are made in fp8; null: they are not
  // A generation: keys and values are kept, and those of earlier tokens attended to. Null: none.
  KeyValues* cache = nullptr;
  const CachePlaces* places = nullptr;

  ops::DropoutKey dropout_of(Projection projection) const {
    ops::DropoutKey key = dropout;
    key.site = static_cast<uint32_t>(layer * 16 + projection);
    return key;
  }
};

}  // namespace vax::model
