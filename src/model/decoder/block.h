// What both halves of a block know: its sizes, parts and linear layers, and where the tokens of the
// micro-batch stand. SHAPES as in model/model.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "model/decoder/fp8_weights.h"
#include "model/lora.h"
#include "model/spec.h"
#include "ops/attention.h"
#include "ops/dropout.h"

namespace vax::model {

// One member of a fused layer: output columns [begin, begin + width).
struct Branch {
  Projection projection;
  int64_t begin;
  int64_t width;
};

// A linear layer [in] -> [out]; a fused one (q, k, v; gate, up) has one GEMM for its members.
struct LinearLayer {
  Role weight, bias;
  int64_t in = 0;
  std::vector<Branch> branches{};

  int64_t out() const { return branches.back().begin + branches.back().width; }
};

struct BlockDims {
  BlockDims(const Spec& spec, const LoraSpec& lora_spec, bool trains_base, at::ScalarType type);

  int64_t hidden_size;            // D
  int64_t intermediate_size;      // F
  ops::AttentionShape attention;  // H, KV, K
  NormKind norm;
  double norm_eps;
  MlpKind mlp;
  at::ScalarType compute_dtype;
  LoraSpec lora;
  bool train_base;
  LinearLayer qkv, attention_out, up, down;

  std::array<const LinearLayer*, 4> linears() const { return {&qkv, &attention_out, &up, &down}; }
  int64_t query_width() const { return attention.num_heads * attention.head_dim; }
  int64_t kv_width() const { return attention.num_kv_heads * attention.head_dim; }
  int64_t element_bytes() const { return static_cast<int64_t>(at::elementSize(compute_dtype)); }
};

// What a half of a block takes in a pass, in bytes a token.
struct HalfBytes {
  int64_t saved;     // from its forward to its backward, its input left out
  int64_t forward;   // most that its forward makes and does not save
  int64_t backward;  // most that its backward makes, on top of what is saved
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
