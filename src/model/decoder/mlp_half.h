// Second half of a block: mlp(norm(h)), the residual addition not included. Saved for the backward,
// besides h: the norm's statistics, the matrix [T, C] before the activation (gate and up side by
// side, or up alone) and the LoRA activations: of a gated MLP with an RMS norm 4 + 2 s F + 12 R
// bytes a token. The normed input and the activation are computed again. SHAPES as in
// model/model.h, but for this C.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "model/decoder/block.h"
#include "model/decoder/norm.h"
#include "model/weights.h"

namespace vax::model {

struct MlpSaved {
  NormSaved norm;
  at::Tensor up_TC;
  std::array<at::Tensor, 2> up_u;
  std::array<at::Tensor, 1> down_u;
};
HalfBytes mlp_bytes(const BlockDims& dims, bool weight_gradients);

// Returns [T, D] of the compute type. h [T, D] fp32.
at::Tensor mlp_forward(const BlockContext& context, const UnitTensors& weights,
                       const at::Tensor& h_TD, MlpSaved& saved);

// What mlp_forward() saves, for a backward that follows at once: the output, which nobody asks for
// a second time, is not computed.
void mlp_recompute(const BlockContext& context, const UnitTensors& weights, const at::Tensor& h_TD,
                   bool weight_gradients, MlpSaved& saved);

// grad [T, D] fp32: in, dL/dx' (the residual's share of dL/dh); out, dL/dh. `saved.up_TC` is
// consumed.
void mlp_backward(const BlockContext& context, const UnitTensors& weights, UnitGradients* gradients,
                  const at::Tensor& h_TD, MlpSaved& saved, at::Tensor& grad_TD);

}  // namespace vax::model
