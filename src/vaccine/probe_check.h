// How far the direction that a probe of lower precision has found is from the one of the update's
// precision: the cosine of the two perturbations as vectors over all layers, tokens and ranks. It
// is also the share of the first-order ascent that the probe keeps.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "dist/collectives.h"
#include "ops/hidden_state.h"
#include "vaccine/perturbation.h"

namespace vax::vaccine {

class ProbeCheck {
 public:
  // `found`: the probe's perturbation, normalised already; borrowed.
  ProbeCheck(const Perturbation& found, int num_layers);

  // G_l [T, D] fp32 of the same micro-batch in the update's precision. Nothing is kept of it where
  // there is one vector per token.
  void record(size_t micro_batch, int layer, const at::Tensor& grad_TD);
  // The sums over what this rank has recorded; of vectors that the ranks share, over all that went
  // into them, the same on every rank. COLLECTIVE over world for shared vectors of global scope.
  ops::CosineSums finish(dist::Collectives& world);

 private:
  const Perturbation& found_;
  ops::CosineSums sums_;
  std::vector<at::Tensor> shared_grads_;  // [layer] D
};

}  // namespace vax::vaccine
