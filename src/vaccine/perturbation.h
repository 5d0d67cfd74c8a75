// The perturbation of one Vaccine step (arXiv 2402.01109, equation 5 and algorithm 1):
//   eps_l = rho * G_l / (sqrt(S) + 1e-7),   S = sum over layers of ||G_l||_F^2
// Pass 1 hands in G_l by micro-batch and layer; after normalise() pass 2 adds eps. Two forms:
//   token    one vector per token position: G_l is kept, T x D per micro-batch and layer
//   shared   one vector per layer: G_l summed over the tokens of the scope
// The perturbation is a constant of pass 2: nothing is differentiated through it. All sums and the
// scale stay on the device that computes; the host reads none of them between the passes.
// SHAPES of this folder: T tokens of a micro-batch, D hidden, L layers.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "dist/comm/collectives.h"
#include "vaccine/vaccine_options.h"

namespace vax::vaccine {

// What is kept from pass 1 to the end of pass 2.
struct KeptStates {
  int64_t width = 0;                  // D
  at::ScalarType dtype = at::kFloat;  // fp32 or bf16, of one vector per token
  at::Device device = at::kCPU;
};

class Perturbation {
 public:
  // THROWS ConfigError for layers (options.layers, 0-based; empty: all) the model does not have.
  Perturbation(const VaccineOptions& options, int num_layers, const KeptStates& kept);

  // Forgets everything. `num_micro_batches` share one S.
  void begin(size_t num_micro_batches);
  // G_l [T, D] fp32 of a micro-batch; copied, and rounded to kept_dtype.
  void record(size_t micro_batch, int layer, const at::Tensor& grad_TD);
  // Ends pass 1: sums over the ranks of `world` (of the tensors' memory) where the scope is global,
  // and fixes the scale. COLLECTIVE over world for the global scope.
  void normalise(dist::Collectives& world);
  // h += eps_l. h [T, D] fp32, the micro-batch of record().
  void add_to(size_t micro_batch, int layer, at::Tensor& h_TD) const;

  // Squared norm per layer of what S sums, [L] fp64: with the global scope over all ranks, else
  // this rank's.
  const at::Tensor& layer_squares() const { return layer_squares_L_; }
  const at::Tensor& scale() const { return scale_; }  // rho / (sqrt(S) + 1e-7), fp64, one element
  bool perturbs(int layer) const { return perturbed_[static_cast<size_t>(layer)]; }
  // Bytes of what is kept now; and as record() will have kept them: in all, and a token.
  int64_t num_bytes() const;
  int64_t shared_bytes() const;
  int64_t bytes_per_token() const;
  // What record() has kept, [T, D] or, shared and after normalise(), [D].
  at::Tensor kept(size_t micro_batch, int layer) const {
    if (direction_ == Direction::kShared) return shared_grads_LD_[layer];
    return token_grads_[micro_batch][static_cast<size_t>(layer)];
  }
  Direction direction() const { return direction_; }
  NormScope scope() const { return scope_; }

 private:
  void reduce_shared(dist::Collectives& world);

  double rho_;
  NormScope scope_;
  Direction direction_;
  int64_t width_;
  at::ScalarType kept_dtype_;
  std::vector<bool> perturbed_;
  std::vector<std::vector<at::Tensor>> token_grads_;  // [micro-batch][layer] T x D
  at::Tensor shared_grads_LD_;                        // fp32; undefined with one vector per token
  at::Tensor layer_squares_L_, scale_;                // fp64
};

}  // namespace vax::vaccine
