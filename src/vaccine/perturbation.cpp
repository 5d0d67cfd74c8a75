#include "vaccine/perturbation.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/error.h"
#include "ops/hidden_state.h"

namespace vax::vaccine {

Perturbation::Perturbation(const VaccineOptions& options, int num_layers, const KeptStates& kept)
    : rho_(options.rho),
      scope_(options.norm_scope),
      direction_(options.direction),
      width_(kept.width),
      kept_dtype_(kept.dtype),
      perturbed_(static_cast<size_t>(num_layers), options.layers.empty()) {
  for (const int64_t layer : options.layers) {
    if (layer < 0 || layer >= num_layers)
      throw ConfigError(
          cat("vaccine.layers: expected layers in [0, ", num_layers - 1, "], found ", layer));
    perturbed_[static_cast<size_t>(layer)] = true;
  }
  const at::TensorOptions sums = at::TensorOptions(at::kDouble).device(kept.device);
  layer_squares_L_ = at::zeros({num_layers}, sums);
  scale_ = at::zeros({}, sums);
  if (direction_ == Direction::kShared)
    shared_grads_LD_ = at::zeros({num_layers, kept.width}, sums.dtype(at::kFloat));
}

void Perturbation::begin(size_t num_micro_batches) {
  if (direction_ == Direction::kShared)
    shared_grads_LD_.zero_();
  else
    token_grads_.assign(num_micro_batches, std::vector<at::Tensor>(perturbed_.size()));
  layer_squares_L_.zero_();
  scale_.zero_();
}

void Perturbation::record(size_t micro_batch, int layer, const at::Tensor& grad_TD) {
  if (!perturbs(layer)) return;
  if (direction_ == Direction::kShared) {
    shared_grads_LD_[layer].add_(grad_TD.sum(0));
    return;
  }
  at::Tensor& kept_TD = token_grads_[micro_batch][static_cast<size_t>(layer)];
  kept_TD = at::empty(grad_TD.sizes(), grad_TD.options().dtype(kept_dtype_));
  at::Tensor squares = layer_squares_L_[layer];
  ops::copy_with_squares(grad_TD, kept_TD, squares);
}

void Perturbation::reduce_shared(dist::Collectives& world) {
  if (scope_ == NormScope::kGlobal)
    world
        .all_reduce(shared_grads_LD_.data_ptr(), shared_grads_LD_.numel(), dist::DataType::kFloat32,
                    dist::ReduceOp::kSum)
        .wait();
  for (int64_t l = 0; l < shared_grads_LD_.size(0); ++l) {
    at::Tensor squares = layer_squares_L_[l];
    ops::add_squares(shared_grads_LD_[l], squares);
  }
}

void Perturbation::normalise(dist::Collectives& world) {
  if (direction_ == Direction::kShared) {
    reduce_shared(world);
  } else if (scope_ == NormScope::kGlobal) {
    world
        .all_reduce(layer_squares_L_.data_ptr(), layer_squares_L_.numel(), dist::DataType::kFloat64,
                    dist::ReduceOp::kSum)
        .wait();
  }
  scale_.fill_(rho_).div_(layer_squares_L_.sum().sqrt_().add_(1e-7));
}

void Perturbation::add_to(size_t micro_batch, int layer, at::Tensor& h_TD) const {
  if (!perturbs(layer)) return;
  ops::add_scaled(kept(micro_batch, layer), scale_, h_TD);
}

int64_t Perturbation::shared_bytes() const {
  return direction_ == Direction::kShared ? static_cast<int64_t>(shared_grads_LD_.nbytes()) : 0;
}

int64_t Perturbation::bytes_per_token() const {
  if (direction_ == Direction::kShared) return 0;
  return std::count(perturbed_.begin(), perturbed_.end(), true) * width_ *
         static_cast<int64_t>(at::elementSize(kept_dtype_));
}

int64_t Perturbation::num_bytes() const {
  int64_t sum = shared_bytes();
  for (const std::vector<at::Tensor>& layers : token_grads_)
    for (const at::Tensor& grad : layers)
      if (grad.defined()) sum += static_cast<int64_t>(grad.nbytes());
  return sum;
}

}  // namespace vax::vaccine
