// A linear layer of a block with its optional LoRA branches: one for every member of a fused layer,
// each on its column block of the output.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "model/decoder/block.h"
#include "model/model.h"
#include "model/weights.h"

namespace vax::model {

// Returns y [T, O] of the compute type. x [T, I] of it. u receives the branches' low-rank
// activations [T, R] (undefined for members without an adapter), by position in `branches`.
at::Tensor adapted_forward(const LinearLayer& layer, const UnitTensors& weights,
                           const BlockContext& context, const at::Tensor& x_TI,
                           std::span<at::Tensor> u);

// The branches' low-rank activations alone, as adapted_forward() makes them.
void adapted_low_rank(const LinearLayer& layer, const UnitTensors& weights,
                      const BlockContext& context, const at::Tensor& x_TI, std::span<at::Tensor> u);

// dx [T, I] is written (undefined: not wanted). gradients null: dx only, x and u are not read.
void adapted_backward(const LinearLayer& layer, const UnitTensors& weights,
                      UnitGradients* gradients, const BlockContext& context,
                      const at::Tensor& dy_TO, const at::Tensor& x_TI,
                      std::span<const at::Tensor> u, at::Tensor& dx_TI);

// Bytes a token of the low-rank activations.
int64_t low_rank_bytes(const LinearLayer& layer, const LoraSpec& lora);
// Bytes that a bf16 product of `rows` x `cols` takes on its way to an fp32 gradient, where the
// processor's library can only write bf16 (ops/matmul.cpp: a block of 2^20 elements or 128 rows).
int64_t weight_product_bytes(const BlockDims& dims, const PassShape& pass, int64_t rows,
                             int64_t cols);

}  // namespace vax::model
