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

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/flat_layout.h"
#include "base/packed_batch.h"
#include "model/attention_half.h"
#include "model/batch_view.h"
#include "model/fp8_weights.h"
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
  // Factor on the sum of cross entropies, 1 / N of the global batch: fp64, one element, on the
  // model's device; undefined: 1.
  at::Tensor loss_scale;
  double dropout = 0;  // of the LoRA branch's input
  uint64_t seed = 0;
  uint64_t dropout_stream = 0;            // ops::dropout_stream(step, pass)
  const uint32_t* dropout_key = nullptr;  // DropoutKey::device_key: instead of the two above
  bool recompute = false;  // keep only block inputs, run blocks forward again in the backward
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
  // `device`: where the weights will be, and everything is computed.
  Llama(LlamaConfig config, LoraSpec lora, bool train_base, at::ScalarType compute_dtype,
        at::Device device = at::kCPU);

  // Products of the blocks' linear layers are made in fp8 from here on, with copies of the weights
  // that are kept where these stay as they are. Gradients of weights are not: for passes without
  // them. REQUIRES bf16 and a device. THROWS ConfigError when a layer's size does not allow it.
  void use_fp8(bool keep);
  // Of the kept copies: now, and once all are made.
  int64_t fp8_bytes() const { return fp8_ ? fp8_->num_bytes() : 0; }
  int64_t planned_fp8_bytes() const;

  const LlamaConfig& config() const { return config_; }
  const LoraSpec& lora() const { return lora_; }
  at::ScalarType compute_dtype() const { return compute_dtype_; }
  at::Device device() const { return device_; }
  int num_layers() const { return static_cast<int>(config_.num_layers); }
  int num_units() const { return num_layers() + 2; }
  int head_unit() const { return num_layers() + 1; }

  // Parameters by unit, names as in Hugging Face checkpoints (frozen, or trainable with
  // train_base) and as in PEFT files (LoRA). Units without parameters have count 0.
  const FlatLayout& frozen_layout() const { return frozen_; }
  const FlatLayout& trainable_layout() const { return trainable_; }

  // One micro-batch forward and backward; the host does not wait for the device. The unscaled sum
  // of cross entropies is added to `loss_sum` (fp64, one element, on the device). `gradients` null:
  // no weight gradient is computed (a probe). An empty batch acquires and releases the same units
  // and computes nothing. REQUIRES check_batch().
  void forward_backward(const BatchView& batch, WeightSource& weights, GradientSink* gradients,
                        const PassOptions& options, at::Tensor& loss_sum) const;
  // Forward only, of a batch on the host, which is checked first. Returns the sum of cross
  // entropies over the batch's labels. BLOCKS host until the device has it.
  double forward(const PackedBatch& batch, WeightSource& weights, const PassOptions& options) const;

  // The order in which the functions above acquire units.
  std::vector<int> unit_uses(bool with_backward) const;

  // Parts, for generation and tests.
  at::Tensor embed(const BatchView& batch, WeightSource& weights) const;  // [T, D] fp32
  BlockContext make_context(const BatchView& batch, int layer, const PassOptions& options) const;
  // Logits of rows [N, D] of the last residual stream; fp32 [N, V].
  at::Tensor logits(const at::Tensor& x_ND, WeightSource& weights) const;
  const BlockDims& dims() const { return dims_; }

 private:
  struct LinearSize {
    int64_t in, out;
  };
  std::array<LinearSize, 4> linear_sizes() const;  // of a block
  // h [T, D] after the boundary.
  at::Tensor run_attention_half(int layer, const at::Tensor& x_TD, const HeldWeights& weights,
                                const BlockContext& context, const PassOptions& options,
                                AttentionSaved& saved) const;
  // `saved` null: nothing is kept.
  at::Tensor run_block(int layer, at::Tensor x_TD, const HeldWeights& weights,
                       const BlockContext& context, const PassOptions& options,
                       BlockSaved* saved) const;
  // `grad_TD` null: the loss alone.
  void run_head(const BatchView& batch, const at::Tensor& x_TD, WeightSource& weights,
                GradientSink* gradients, const PassOptions& options, at::Tensor& loss_sum,
                at::Tensor* grad_TD) const;
  void backward_blocks(const BatchView& batch, WeightSource& weights, GradientSink* gradients,
                       const PassOptions& options, std::vector<BlockSaved>& saved,
                       at::Tensor& grad_TD) const;

  LlamaConfig config_;
  LoraSpec lora_;
  bool train_base_;
  at::ScalarType compute_dtype_;
  at::Device device_;
  FlatLayout frozen_, trainable_;
  BlockDims dims_;
  at::Tensor cos_PK_, sin_PK_;
  std::unique_ptr<Fp8Weights> fp8_;  // null: products have the compute type
};

}  // namespace vax::model
