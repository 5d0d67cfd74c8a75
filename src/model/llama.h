// Llama as a chain of units, forward and backward by hand:
//   unit 0        token embedding
//   units 1..L    blocks, each of two halves:  h = x + e, e = attention(norm(x))   [boundary]
//                                              x' = h + mlp(norm(h))
//   unit L + 1    final norm and output head
// The boundary between the halves is where Vaccine reads G_l = dL/de_l (the gradient of the
// residual stream there) and adds eps_l. Single-device code: sharding hides behind WeightSource and
// GradientSink. Shape letters: T tokens of the packed micro-batch, D hidden, F feed-forward, H
// query heads, K head dimension, C = (H + 2 KV) K, V vocabulary, N label rows.
//
// Precision: the residual stream, its gradient, norms' statistics, softmax and losses are fp32;
// inputs and outputs of GEMMs have the compute type (fp32 or bf16); LoRA arithmetic is fp32.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/flat_layout.h"
#include "base/packed_batch.h"
#include "model/attention_half.h"
#include "model/llama_config.h"
#include "model/lora.h"
#include "model/mlp_half.h"
#include "model/weights.h"

namespace vax::model {

// Called between the halves of block `layer` (0-based). May change h in place (h = x + e, fp32);
// must do the same when called again for one micro-batch (recomputation).
using ForwardBoundary = std::function<void(int layer, const at::Tensor& e_TD, at::Tensor& h_TD)>;
// Gets G_l of the micro-batch, fp32; the tensor is only valid during the call.
using BackwardBoundary = std::function<void(int layer, const at::Tensor& grad_TD)>;

struct PassOptions {
  double loss_scale = 1;  // factor on the sum of cross entropies: 1 / N of the global batch
  double dropout = 0;     // of the LoRA branch's input
  uint64_t seed = 0;
  uint64_t dropout_stream = 0;  // ops::dropout_stream(step, pass)
  bool recompute = false;       // keep only block inputs, run blocks forward again in the backward
  bool stop_at_first_boundary = false;  // the backward ends with G of layer 0 (a probe)
  ForwardBoundary forward_boundary;     // may be empty
  BackwardBoundary backward_boundary;   // may be empty
};

// One block's share of what a backward needs.
struct BlockSaved {
  at::Tensor x_TD;  // block input, fp32
  at::Tensor h_TD;  // after the boundary, fp32
  AttentionSaved attention;
  MlpSaved mlp;
};

class Llama {
 public:
  Llama(LlamaConfig config, LoraSpec lora, bool train_base, at::ScalarType compute_dtype);

  const LlamaConfig& config() const { return config_; }
  const LoraSpec& lora() const { return lora_; }
  at::ScalarType compute_dtype() const { return compute_dtype_; }
  int num_layers() const { return static_cast<int>(config_.num_layers); }
  int num_units() const { return num_layers() + 2; }
  int head_unit() const { return num_layers() + 1; }

  // Parameters by unit, names as in Hugging Face checkpoints (frozen, or trainable with
  // train_base) and as in PEFT files (LoRA). Units without parameters have count 0.
  const FlatLayout& frozen_layout() const { return frozen_; }
  const FlatLayout& trainable_layout() const { return trainable_; }

  // One micro-batch forward and backward. Returns the unscaled sum of cross entropies. `gradients`
  // null: no weight gradient is computed (a probe). An empty batch acquires and releases the same
  // units and computes nothing.
  double forward_backward(const PackedBatch& batch, WeightSource& weights, GradientSink* gradients,
                          const PassOptions& options) const;
  // Forward only; the sum of cross entropies over the batch's labels.
  double forward(const PackedBatch& batch, WeightSource& weights, const PassOptions& options) const;

  // The order in which the functions above acquire units.
  std::vector<int> unit_uses(bool with_backward) const;

  // Parts, for generation and tests.
  at::Tensor embed(const PackedBatch& batch, WeightSource& weights) const;  // [T, D] fp32
  BlockContext make_context(const PackedBatch& batch, int layer, const PassOptions& options) const;
  // Logits of rows [N, D] of the last residual stream; fp32 [N, V].
  at::Tensor logits(const at::Tensor& x_ND, WeightSource& weights) const;
  const BlockDims& dims() const { return dims_; }

 private:
  // h [T, D] after the boundary.
  at::Tensor run_attention_half(int layer, const at::Tensor& x_TD, const HeldWeights& weights,
                                const BlockContext& context, const PassOptions& options,
                                AttentionSaved& saved) const;
  // `saved` null: nothing is kept.
  at::Tensor run_block(int layer, at::Tensor x_TD, const HeldWeights& weights,
                       const BlockContext& context, const PassOptions& options,
                       BlockSaved* saved) const;
  double run_head(const PackedBatch& batch, const at::Tensor& x_TD, WeightSource& weights,
                  GradientSink* gradients, double loss_scale, at::Tensor* grad_TD) const;
  void backward_blocks(const PackedBatch& batch, WeightSource& weights, GradientSink* gradients,
                       const PassOptions& options, std::vector<BlockSaved>& saved,
                       at::Tensor& grad_TD) const;

  LlamaConfig config_;
  LoraSpec lora_;
  bool train_base_;
  at::ScalarType compute_dtype_;
  FlatLayout frozen_, trainable_;
  BlockDims dims_;
  at::Tensor cos_PK_, sin_PK_;
};

}  // namespace vax::model
