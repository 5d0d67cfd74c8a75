// Harmful embedding drift: how far e_l, the output of layer l's attention module, has moved since
// reference weights, on the same alignment samples. Per layer l and batch b, over the tokens t:
//   l2sq[l, b]    sum_t ||e - e_ref||^2
//   relative[l]   sqrt(sum_b l2sq / sum_t ||e_ref||^2)
//   cosine[l]     mean over tokens of cos(e, e_ref)
//   cka[l]        linear CKA (arXiv 1905.00414), centred, its HSIC terms averaged over the batches
//                 (arXiv 2010.15327): 1 when the geometry is the same
// Batches are spread over the ranks. The reference is kept in memory: 4 L D bytes a token. SHAPES
// as in perturbation.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "base/packed_batch.h"
#include "dist/comm/collectives.h"
#include "io/run_records.h"
#include "model/model.h"
#include "model/weights.h"

namespace vax::vaccine {

class DriftMeter {
 public:
  // `batches`: the same on every rank; rank r takes batches r, r + R, ...
  DriftMeter(std::vector<PackedBatch> batches, dist::Collectives& world);

  // Hidden states of these weights become the reference. COLLECTIVE over world.
  void set_reference(const model::Model& model, model::WeightSource& weights);
  // Drift of these weights against the reference; the same record on every rank.
  // REQUIRES set_reference(). COLLECTIVE over world.
  io::DriftRecord measure(const model::Model& model, model::WeightSource& weights, int64_t step);
  // What this rank keeps of a reference: 4 bytes per token of its batches, layer and hidden unit.
  int64_t reference_bytes(const model::Model& model) const;

 private:
  using LayerStates = std::vector<at::Tensor>;  // [layer] of [T, D] fp32
  size_t num_rounds() const;
  // The batch of this rank in a round; an empty one when it has none.
  const PackedBatch& batch_of(size_t round) const;
  static LayerStates hidden_states(const model::Model& model, model::WeightSource& weights,
                                   const PackedBatch& batch);

  std::vector<PackedBatch> batches_;
  dist::Collectives& world_;
  PackedBatch none_;
  std::vector<LayerStates> reference_;  // by round
};

}  // namespace vax::vaccine
