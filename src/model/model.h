// What a model offers to those that train, measure and ask it. It is a chain of units: the token
// embedding (unit 0), the blocks (1 to L), the head (L + 1). A block has two halves:
//   h = x + e, e = attention(norm(x))   [boundary]      x' = h + mlp(norm(h))
// The boundary is where a method reads G_l = dL/de_l (the gradient of the residual stream there)
// and may add to h. Forward and backward are written by hand. A model is single-device code:
// weights come through a WeightSource and gradients go to a GradientSink, and sharding hides behind
// them. So whatever takes a source is COLLECTIVE where its weights are sharded, and every rank must
// call it equally often, with an empty batch where it has none.
// SHAPES T tokens of the packed micro-batch, D hidden, F feed-forward, H query heads, KV key heads,
// K head dimension, C = (H + 2 KV) K, R rank of the adapter, L blocks, V vocabulary, N label rows.
//
// Precision: the residual stream, its gradient, norms' statistics, softmax and losses are fp32;
// inputs and outputs of GEMMs have the compute type (fp32 or bf16); LoRA arithmetic is fp32.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/flat_layout.h"
#include "base/packed_batch.h"
#include "model/lora.h"
#include "model/placed_batch.h"
#include "model/spec.h"
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

// A forward and backward by what it costs.
struct PassShape {
  int64_t num_tokens = 0;
  int64_t num_labels = 0;
  bool weight_gradients = true;  // false: a probe
  bool recompute = false;
  int64_t num_sequences = 1;
  bool on_device = false;  // a GPU's operators
};

// Units of which one is acquired while the other is held.
struct HeldUnits {
  int outer, inner;
};

// What a model keeps of the tokens that a generation has read (Model::make_cache).
class DecodeCache {
 public:
  virtual ~DecodeCache() = default;
};

class Model {
 public:
  virtual ~Model() = default;

  virtual const Spec& spec() const = 0;
  virtual const LoraSpec& lora() const = 0;
  virtual at::ScalarType compute_dtype() const = 0;
  // Where weights and batches must be, and everything is computed.
  virtual at::Device device() const = 0;
  int num_layers() const { return static_cast<int>(spec().num_layers); }
  int num_units() const { return num_layers() + 2; }
  int head_unit() const { return num_layers() + 1; }
  int64_t hidden_size() const { return spec().hidden_size; }
  int64_t vocab_size() const { return spec().vocab_size; }
  int64_t max_positions() const { return spec().max_positions; }

  // Parameters by unit, names as in the checkpoint (of the base) and as in PEFT files (LoRA). Units
  // without parameters have count 0. The base is what is trained, or else what is frozen.
  virtual const FlatLayout& base_layout() const = 0;
  virtual const FlatLayout& frozen_layout() const = 0;
  virtual const FlatLayout& trainable_layout() const = 0;

  // The order in which the passes below acquire units from their source: forward_backward(), or
  // forward() and decode().
  virtual std::vector<int> unit_uses(bool with_backward) const = 0;
  // The order in which forward_backward() acquires units from its sink; one is held at a time.
  virtual std::vector<int> gradient_uses() const = 0;
  // Units that a source must be able to hold at once (a tied head inside which the embedding is
  // acquired). Empty: one is held at a time.
  virtual std::optional<HeldUnits> held_together() const = 0;

  // One micro-batch forward and backward; the host does not wait for the device. The unscaled sum
  // of cross entropies is added to `loss_sum` (fp64, one element, on the device). `gradients` null:
  // no weight gradient is computed (a probe). An empty batch acquires and releases the same units
  // and computes nothing. COLLECTIVE where weights or gradients are sharded. REQUIRES check_batch()
  // of the batch.
  virtual void forward_backward(const PlacedBatch& batch, WeightSource& weights,
                                GradientSink* gradients, const PassOptions& options,
                                at::Tensor& loss_sum) const = 0;
  // Forward only, of a batch on the host, which is checked first. Returns the sum of cross
  // entropies over the batch's labels. COLLECTIVE where weights are sharded. BLOCKS host until the
  // device has it. THROWS as check_batch().
  virtual double forward(const PackedBatch& batch, WeightSource& weights,
                         const PassOptions& options) const = 0;

  // Generation. Room for `num_slots` sequences of at most `capacity` tokens.
  virtual std::unique_ptr<DecodeCache> make_cache(int64_t num_slots, int64_t capacity) const = 0;
  // Reads the batch's tokens into the cache and returns the logits after the last token of each
  // sequence, fp32 [sequences, V]. Sequence s has its place in slots[s]; slots are distinct. Either
  // all sequences are whole prompts (positions from 0 on), or all have one token, the one that
  // follows what the cache holds. An empty batch acquires the same units. COLLECTIVE where weights
  // are sharded. THROWS as check_batch(). REQUIRES a cache that this model has made, with room.
  virtual at::Tensor decode(const PackedBatch& batch, std::span<const int32_t> slots,
                            DecodeCache& cache, WeightSource& weights) const = 0;

  // Most bytes that one forward and backward holds at a time beyond weights and gradients.
  virtual int64_t activation_bytes(const PassShape& pass) const = 0;

  // Products of the blocks' linear layers are made in fp8 from here on, with copies of the weights
  // that are kept where these stay as they are. Gradients of weights are not: for passes without
  // them. REQUIRES bf16 and a device. THROWS ConfigError when a layer's size does not allow it.
  virtual void use_fp8(bool keep) = 0;
  // Bytes of the kept copies: now, and once all are made.
  virtual int64_t fp8_bytes() const = 0;
  virtual int64_t planned_fp8_bytes() const = 0;
};

// The model that a spec describes, with an adapter (`lora` enabled), with its base trained, or
// with nothing to train. REQUIRES not both.
std::unique_ptr<Model> make_model(const Spec& spec, const LoraSpec& lora, bool train_base,
                                  at::ScalarType compute_dtype, at::Device device = at::kCPU);

}  // namespace vax::model
