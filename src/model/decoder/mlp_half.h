// Second half of a block: mlp(rms_norm(h)), the residual addition not included. Saved for the
// backward, besides h: rstd, the gate-up matrix and the LoRA activations: 4 + 2 s F + 12 R bytes a
// token. The normed input and the activation are computed again.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "model/decoder/block.h"
#include "model/weights.h"

namespace vax::model {

struct MlpSaved {
  at::Tensor rstd_T;
  at::Tensor gate_up_TC;
  std::array<at::Tensor, 2> gate_up_u;
  std::array<at::Tensor, 1> down_u;
};

// Returns [T, D] of the compute type. h [T, D] fp32.
at::Tensor mlp_forward(const BlockContext& context, const UnitTensors& weights,
                       const at::Tensor& h_TD, MlpSaved& saved);

// What mlp_forward() saves, for a backward that follows at once: the output, which nobody asks for
// a second time, is not computed.
void mlp_recompute(const BlockContext& context, const UnitTensors& weights, const at::Tensor& h_TD,
                   bool weight_gradients, MlpSaved& saved);

// grad [T, D] fp32: in, dL/dx' (the residual's share of dL/dh); out, dL/dh.
// `saved.gate_up_TC` is consumed.
void mlp_backward(const BlockContext& context, const UnitTensors& weights, UnitGradients* gradients,
                  const at::Tensor& h_TD, MlpSaved& saved, at::Tensor& grad_TD);

}  // namespace vax::model
