// A linear layer of a block with its optional LoRA branches. A fused layer (q, k, v; gate, up) has
// one GEMM and one branch per member, each on its column block of the output.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "model/decoder/block.h"
#include "model/weights.h"

namespace vax::model {

// One member of a fused layer: output columns [begin, begin + width).
struct Branch {
  Projection projection;
  int64_t begin;
  int64_t width;
};

struct AdaptedLinear {
  Role weight;
  Role bias;
  std::span<const Branch> branches;
};

// y [T, O] is written. u receives the branches' low-rank activations [T, R] (undefined for members
// without an adapter), by position in `branches`.
void adapted_forward(const AdaptedLinear& layer, const UnitTensors& weights,
                     const BlockContext& context, const at::Tensor& x_TI, at::Tensor& y_TO,
                     std::span<at::Tensor> u);

// The branches' low-rank activations alone, as adapted_forward() makes them.
void adapted_low_rank(const AdaptedLinear& layer, const UnitTensors& weights,
                      const BlockContext& context, const at::Tensor& x_TI, std::span<at::Tensor> u);

// dx [T, I] is written (undefined: not wanted). gradients null: dx only, x and u are not read.
void adapted_backward(const AdaptedLinear& layer, const UnitTensors& weights,
                      UnitGradients* gradients, const BlockContext& context,
                      const at::Tensor& dy_TO, const at::Tensor& x_TI,
                      std::span<const at::Tensor> u, at::Tensor& dx_TI);

}  // namespace vax::model
