// A decoder of the transformer's kind as a chain of units, made of the parts that its spec names:
// blocks of two halves (attention_half.h, mlp_half.h) between the embedding and the head.
// Invariant: a tensor that a backward needs is saved by the half that makes it and never aliases a
// weight, which is gone after its release.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/decoder/attention_half.h"
#include "model/decoder/fp8_weights.h"
#include "model/decoder/head.h"
#include "model/decoder/mlp_half.h"
#include "model/decoder/rotary_table.h"
#include "model/model.h"

namespace vax::model {

// One block's share of what a backward needs.
struct BlockSaved {
  at::Tensor x_TD;  // block input, fp32
  at::Tensor h_TD;  // after the boundary, fp32
  AttentionSaved attention;
  MlpSaved mlp;
};

class Decoder : public Model {
 public:
  // See make_model().
  Decoder(Spec spec, const LoraSpec& lora, bool train_base, at::ScalarType compute_dtype,
          at::Device device = at::kCPU);

  const Spec& spec() const override { return spec_; }
  const LoraSpec& lora() const override { return dims_.lora; }
  at::ScalarType compute_dtype() const override { return dims_.compute_dtype; }
  at::Device device() const override { return device_; }

  const FlatLayout& base_layout() const override { return train_base() ? trainable_ : frozen_; }
  const FlatLayout& frozen_layout() const override { return frozen_; }
  const FlatLayout& trainable_layout() const override { return trainable_; }
  std::vector<int> unit_uses(bool with_backward) const override;
  std::vector<int> gradient_uses() const override;
  std::optional<HeldUnits> held_together() const override;

  void forward_backward(const PlacedBatch& batch, WeightSource& weights, GradientSink* gradients,
                        const PassOptions& options, at::Tensor& loss_sum) const override;
  double forward(const PackedBatch& batch, WeightSource& weights,
                 const PassOptions& options) const override;
  std::unique_ptr<DecodeCache> make_cache(int64_t num_slots, int64_t capacity) const override;
  at::Tensor decode(const PackedBatch& batch, std::span<const int32_t> slots, DecodeCache& cache,
                    WeightSource& weights) const override;

  int64_t activation_bytes(const PassShape& pass) const override;
  void use_fp8(bool keep) override;
  int64_t fp8_bytes() const override { return fp8_ ? fp8_->num_bytes() : 0; }
  int64_t planned_fp8_bytes() const override;

  // Logits of all tokens, fp32 [T, V]. COLLECTIVE where weights are sharded.
  at::Tensor logits(const PackedBatch& batch, WeightSource& weights) const;

 private:
  // Block by block the keys and values of a generation, and where those of this batch go.
  struct Decoding {
    std::vector<KeyValues>& layers;
    const CachePlaces& places;
  };

  bool train_base() const { return dims_.train_base; }
  BlockContext make_context(const PlacedBatch& batch, int layer, const PassOptions& options) const;
  at::Tensor embed(const PlacedBatch& batch, WeightSource& weights) const;  // [T, D] fp32
  // h [T, D] after the boundary.
  at::Tensor run_attention_half(const at::Tensor& x_TD, const HeldWeights& weights,
                                const BlockContext& context, const PassOptions& options,
                                AttentionSaved& saved) const;
  // `saved` null: nothing is kept.
  at::Tensor run_block(at::Tensor x_TD, const HeldWeights& weights, const BlockContext& context,
                       const PassOptions& options, BlockSaved* saved) const;
  // The last residual stream [T, D]. `saved` gets what a backward needs, by block; empty: nothing
  // is kept. `decoding` null: no generation.
  at::Tensor run_forward(const PlacedBatch& batch, WeightSource& weights,
                         const PassOptions& options, std::span<BlockSaved> saved,
                         const Decoding* decoding = nullptr) const;
  void backward_blocks(const PlacedBatch& batch, WeightSource& weights, GradientSink* gradients,
                       const PassOptions& options, std::span<BlockSaved> saved,
                       at::Tensor& grad_TD) const;

  Spec spec_;
  at::Device device_;
  FlatLayout frozen_, trainable_;
  BlockDims dims_;
  Head head_;
  RotaryTable rotary_;
  std::unique_ptr<Fp8Weights> fp8_;  // null: products have the compute type
};

}  // namespace vax::model
