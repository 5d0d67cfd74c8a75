#include "vaccine/perturbation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/narrow.h"
#include "ops/hidden_state.h"

namespace vax::vaccine {

NormScope norm_scope_of(const VaccineOptions& options) {
  if (options.norm_scope == "rank") return NormScope::kRank;
  if (options.norm_scope == "micro") return NormScope::kMicro;
  VAX_CHECK(options.norm_scope == "global", options.norm_scope);
  return NormScope::kGlobal;
}

Direction direction_of(const VaccineOptions& options) {
  if (options.direction == "shared") return Direction::kShared;
  VAX_CHECK(options.direction == "token", options.direction);
  return Direction::kToken;
}

Perturbation::Perturbation(const VaccineOptions& options, int num_layers, at::ScalarType kept_dtype)
    : rho_(options.rho),
      scope_(norm_scope_of(options)),
      direction_(direction_of(options)),
      kept_dtype_(kept_dtype),
      perturbed_(static_cast<size_t>(num_layers), options.layers.empty()),
      shared_grads_(static_cast<size_t>(num_layers)),
      layer_squares_(static_cast<size_t>(num_layers), 0.0) {
  for (const int64_t layer : options.layers) {
    if (layer < 0 || layer >= num_layers)
      throw ConfigError(
          cat("vaccine.layers: expected layers in [0, ", num_layers - 1, "], found ", layer));
    perturbed_[static_cast<size_t>(layer)] = true;
  }
}

void Perturbation::begin(size_t num_micro_batches) {
  token_grads_.assign(num_micro_batches, std::vector<at::Tensor>(perturbed_.size()));
  shared_grads_.assign(perturbed_.size(), at::Tensor());
  layer_squares_.assign(perturbed_.size(), 0.0);
  scale_ = 0;
}

void Perturbation::record(size_t micro_batch, int layer, const at::Tensor& grad_TD) {
  if (!perturbs(layer)) return;
  const auto l = static_cast<size_t>(layer);
  if (direction_ == Direction::kToken) {
    at::Tensor& kept_TD = token_grads_[micro_batch][l];
    kept_TD = at::empty(grad_TD.sizes(), grad_TD.options().dtype(kept_dtype_));
    layer_squares_[l] += ops::copy_with_squares(grad_TD, kept_TD);
    return;
  }
  const at::Tensor sum_D = grad_TD.sum(0);
  shared_grads_[l] = shared_grads_[l].defined() ? shared_grads_[l] + sum_D : sum_D;
}

void Perturbation::reduce_shared(dist::Collectives& world) {
  // A rank without rows has no vector to tell the width by: agree on it first.
  int64_t width = 0;
  for (const at::Tensor& grad_D : shared_grads_)
    if (grad_D.defined()) width = grad_D.size(0);
  if (scope_ == NormScope::kGlobal)
    world.all_reduce(&width, 1, dist::DataType::kInt64, dist::ReduceOp::kMax).wait();
  if (width == 0) return;
  const auto num_layers = narrow<int64_t>(perturbed_.size());
  at::Tensor all_LD = at::zeros({num_layers, width}, at::kFloat);
  for (int64_t l = 0; l < num_layers; ++l)
    if (shared_grads_[static_cast<size_t>(l)].defined())
      all_LD[l].copy_(shared_grads_[static_cast<size_t>(l)]);
  if (scope_ == NormScope::kGlobal)
    world
        .all_reduce(all_LD.data_ptr(), all_LD.numel(), dist::DataType::kFloat32,
                    dist::ReduceOp::kSum)
        .wait();
  for (int64_t l = 0; l < num_layers; ++l) {
    shared_grads_[static_cast<size_t>(l)] = all_LD[l];
    const at::Tensor row_1D = all_LD.narrow(0, l, 1);
    layer_squares_[static_cast<size_t>(l)] = ops::cosine_sums(row_1D, row_1D).aa;
  }
}

void Perturbation::normalise(dist::Collectives& world) {
  if (direction_ == Direction::kShared) {
    reduce_shared(world);
  } else if (scope_ == NormScope::kGlobal) {
    world
        .all_reduce(layer_squares_.data(), narrow<int64_t>(layer_squares_.size()),
                    dist::DataType::kFloat64, dist::ReduceOp::kSum)
        .wait();
  }
  const double sum = std::accumulate(layer_squares_.begin(), layer_squares_.end(), 0.0);
  scale_ = rho_ / (std::sqrt(sum) + 1e-7);
}

void Perturbation::add_to(size_t micro_batch, int layer, at::Tensor& h_TD) const {
  if (!perturbs(layer)) return;
  ops::add_scaled(kept(micro_batch, layer), scale_, h_TD);
}

int64_t Perturbation::num_perturbed() const {
  return std::count(perturbed_.begin(), perturbed_.end(), true);
}

int64_t Perturbation::num_bytes() const {
  int64_t sum = 0;
  const auto add = [&sum](const at::Tensor& tensor) {
    if (tensor.defined()) sum += static_cast<int64_t>(tensor.nbytes());
  };
  for (const std::vector<at::Tensor>& layers : token_grads_)
    for (const at::Tensor& grad : layers) add(grad);
  for (const at::Tensor& grad : shared_grads_) add(grad);
  return sum;
}

}  // namespace vax::vaccine
