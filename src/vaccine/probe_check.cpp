#include "vaccine/probe_check.h"

#include <ATen/ATen.h>

namespace vax::vaccine {

ProbeCheck::ProbeCheck(const Perturbation& found, int num_layers, const KeptStates& kept)
    : found_(found) {
  const at::TensorOptions options = at::TensorOptions(at::kDouble).device(kept.device);
  sums_ = at::zeros({3}, options);
  if (found.direction() == Direction::kShared)
    shared_grads_LD_ = at::zeros({num_layers, kept.width}, options.dtype(at::kFloat));
}

void ProbeCheck::record(size_t micro_batch, int layer, const at::Tensor& grad_TD) {
  if (!found_.perturbs(layer)) return;
  if (found_.direction() == Direction::kToken)
    ops::cosine_sums(found_.kept(micro_batch, layer), grad_TD, sums_);
  else
    shared_grads_LD_[layer].add_(grad_TD.sum(0));
}

void ProbeCheck::finish(dist::Collectives& world, at::Tensor& sums) {
  if (found_.direction() == Direction::kShared) {
    if (found_.scope() == NormScope::kGlobal)
      world
          .all_reduce(shared_grads_LD_.data_ptr(), shared_grads_LD_.numel(),
                      dist::DataType::kFloat32, dist::ReduceOp::kSum)
          .wait();
    for (int64_t layer = 0; layer < shared_grads_LD_.size(0); ++layer)
      ops::cosine_sums(found_.kept(0, static_cast<int>(layer)), shared_grads_LD_[layer], sums_);
  }
  sums.add_(sums_);
}

}  // namespace vax::vaccine
