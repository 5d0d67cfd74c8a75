#include "vaccine/perturbation.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/narrow.h"

namespace vax::vaccine {
namespace {

// Squared Frobenius norm: fp32 within a row, fp64 over the rows, so that it depends neither on the
// packing nor, beyond the last bits of fp64, on how rows are spread over micro-batches.
double sum_of_squares(const at::Tensor& x_TD) {
  const at::Tensor row_norms_T = at::linalg_vector_norm(x_TD, 2, at::IntArrayRef{-1});
  return row_norms_T.to(at::kDouble).square().sum().item<double>();
}

}  // namespace

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

Perturbation::Perturbation(const VaccineOptions& options, int num_layers)
    : rho_(options.rho),
      scope_(norm_scope_of(options)),
      direction_(direction_of(options)),
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
    token_grads_[micro_batch][l] = grad_TD.clone();
    layer_squares_[l] += sum_of_squares(grad_TD);
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
    layer_squares_[static_cast<size_t>(l)] = sum_of_squares(all_LD[l]);
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
  const auto l = static_cast<size_t>(layer);
  const at::Tensor& grad =
      direction_ == Direction::kToken ? token_grads_[micro_batch][l] : shared_grads_[l];
  h_TD.add_(grad, scale_);
}

}  // namespace vax::vaccine
