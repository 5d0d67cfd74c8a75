#include "vaccine/probe_check.h"

#include <ATen/ATen.h>

namespace vax::vaccine {
namespace {

void add(const ops::CosineSums& more, ops::CosineSums& sums) {
  sums.ab += more.ab;
  sums.aa += more.aa;
  sums.bb += more.bb;
}

}  // namespace

ProbeCheck::ProbeCheck(const Perturbation& found, int num_layers)
    : found_(found), shared_grads_(static_cast<size_t>(num_layers)) {}

void ProbeCheck::record(size_t micro_batch, int layer, const at::Tensor& grad_TD) {
  if (!found_.perturbs(layer)) return;
  if (found_.direction() == Direction::kToken) {
    add(ops::cosine_sums(found_.kept(micro_batch, layer), grad_TD), sums_);
    return;
  }
  at::Tensor& shared_D = shared_grads_[static_cast<size_t>(layer)];
  const at::Tensor sum_D = grad_TD.sum(0);
  shared_D = shared_D.defined() ? shared_D + sum_D : sum_D;
}

ops::CosineSums ProbeCheck::finish(dist::Collectives& world) {
  if (found_.direction() == Direction::kToken) return sums_;
  for (int layer = 0; layer < static_cast<int>(shared_grads_.size()); ++layer) {
    // Undefined where no rank of the scope has rows: the same on all of them.
    const at::Tensor& kept_D = found_.kept(0, layer);
    if (!kept_D.defined()) continue;
    at::Tensor exact_D = shared_grads_[static_cast<size_t>(layer)];
    if (!exact_D.defined()) exact_D = at::zeros(kept_D.sizes(), at::kFloat);
    if (found_.scope() == NormScope::kGlobal)
      world
          .all_reduce(exact_D.data_ptr(), exact_D.numel(), dist::DataType::kFloat32,
                      dist::ReduceOp::kSum)
          .wait();
    add(ops::cosine_sums(kept_D, exact_D), sums_);
  }
  return sums_;
}

}  // namespace vax::vaccine
