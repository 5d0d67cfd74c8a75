// How far the direction that a probe of lower precision has found is from the one of the update's
// precision: the cosine of the two perturbations as vectors over all layers, tokens and ranks. It
// is also the share of the first-order ascent that the probe keeps. SHAPES as in perturbation.h.
#pragma once

#include <ATen/core/Tensor.h>

#include "dist/comm/collectives.h"
#include "ops/hidden_state.h"
#include "vaccine/perturbation.h"

namespace vax::vaccine {

class ProbeCheck {
 public:
  // `found`: the probe's perturbation, normalised already; borrowed.
  ProbeCheck(const Perturbation& found, int num_layers, const KeptStates& kept);

  // G_l [T, D] fp32 of the same micro-batch in the update's precision. Nothing is kept of it where
  // there is one vector per token.
  void record(size_t micro_batch, int layer, const at::Tensor& grad_TD);
  // Adds the sums over what this rank has recorded to `sums` ([3] fp64, see ops::cosine_sums); of
  // vectors that the ranks share, over all that went into them, the same on every rank. COLLECTIVE
  // over world (of the tensors' memory) for shared vectors of global scope.
  void finish(dist::Collectives& world, at::Tensor& sums);

 private:
  const Perturbation& found_;
  at::Tensor sums_;             // [3] fp64
  at::Tensor shared_grads_LD_;  // fp32; undefined with one vector per token
};

}  // namespace vax::vaccine
