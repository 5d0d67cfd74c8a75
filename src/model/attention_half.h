// First half of a block: e = attention(rms_norm(x)) with the output projection, LoRA included, the
// residual addition not. Saved for the backward, besides x: rstd, qkv after rotation, o, lse and
// the LoRA activations: 4 + s C + s H K + 4 H + 16 R bytes a token (s = 2 or 4, size of the compute
// type). The normed input is computed again from x.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "model/block.h"
#include "model/weights.h"

namespace vax::model {

struct AttentionSaved {
  at::Tensor rstd_T;
  at::Tensor qkv_TC;
  at::Tensor o_TC;  // before the output projection
  at::Tensor lse_TH;
  std::array<at::Tensor, 3> qkv_u;  // LoRA activations of q, k, v
  std::array<at::Tensor, 1> out_u;
};

// Returns e [T, D] of the compute type. x [T, D] fp32.
at::Tensor attention_forward(const BlockContext& context, const UnitTensors& weights,
                             const at::Tensor& x_TD, AttentionSaved& saved);

// grad [T, D] fp32: in, dL/dh (= dL/de, and the residual's share of dL/dx); out, dL/dx. With
// `need_input_gradient` false it is left as it is (nothing below is trained).
void attention_backward(const BlockContext& context, const UnitTensors& weights,
                        UnitGradients* gradients, const at::Tensor& x_TD,
                        const AttentionSaved& saved, bool need_input_gradient, at::Tensor& grad_TD);

// Keys (rotated) and values, compute type: of T packed tokens [T, KV, K], or a cache over the
// sequences of a generation [slots, P, KV, K].
struct KeyValues {
  at::Tensor k;
  at::Tensor v;
};

// Views of a saved qkv matrix: what a cache takes from a forward over whole prompts.
KeyValues split_key_values(const BlockDims& dims, const at::Tensor& qkv_TC);

// Which tokens of a cache a new one attends to: int32 [B] each, on the model's device.
struct CachePlaces {
  at::Tensor slots_B, lengths_B;
};

// The same e for one new token per sequence, from a cache. Token b is the last of the lengths[b]
// tokens of slot slots[b]: its key and value are put at position lengths[b] - 1 there; those before
// must be there already. Slots are distinct. Nothing is saved.
at::Tensor attention_decode_forward(const BlockContext& context, const UnitTensors& weights,
                                    const at::Tensor& x_BD, const CachePlaces& places,
                                    KeyValues& cache);

}  // namespace vax::model
