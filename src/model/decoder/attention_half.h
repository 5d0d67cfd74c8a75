// First half of a block: e = attention(norm(x)) with the output projection, LoRA included, the
// residual addition not. Saved for the backward, besides x: the norm's statistics, qkv after
// rotation, o, lse and the LoRA activations: with an RMS norm 4 + s C + s H K + 4 H + 16 R bytes a
// token (s = 2 or 4, size of the compute type). The normed input is computed again from x.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <span>

#include "base/packed_batch.h"
#include "model/decoder/block.h"
#include "model/decoder/norm.h"
#include "model/model.h"
#include "model/weights.h"

namespace vax::model {

struct AttentionSaved {
  NormSaved norm;
  at::Tensor qkv_TC;
  at::Tensor o_TC;  // before the output projection
  at::Tensor lse_TH;
  std::array<at::Tensor, 3> qkv_u;  // LoRA activations of q, k, v
  std::array<at::Tensor, 1> out_u;
};
HalfBytes attention_bytes(const BlockDims& dims, bool weight_gradients);
// What a device's attention makes in its backward, in bytes of the whole pass.
int64_t attention_device_bytes(const BlockDims& dims, const PassShape& pass);

// Returns e [T, D] of the compute type. x [T, D] fp32. In a generation (context.cache) keys and
// values are put into the cache; a new token attends to those that are there, and `saved` is of no
// use.
at::Tensor attention_forward(const BlockContext& context, const UnitTensors& weights,
                             const at::Tensor& x_TD, AttentionSaved& saved);

// grad [T, D] fp32: in, dL/dh (= dL/de, and the residual's share of dL/dx); out, dL/dx. With
// `need_input_gradient` false it is left as it is (nothing below is trained).
void attention_backward(const BlockContext& context, const UnitTensors& weights,
                        UnitGradients* gradients, const at::Tensor& x_TD,
                        const AttentionSaved& saved, bool need_input_gradient, at::Tensor& grad_TD);

// REQUIRES sequences that start at position 0, or one token each. `device`: of the model.
CachePlaces places_of(const PackedBatch& batch, std::span<const int32_t> slots, at::Device device);

}  // namespace vax::model
