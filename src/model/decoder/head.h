// The last unit of a decoder: final norm and output matrix, on the label rows of the last residual
// stream; loss and gradient are made together. The matrix of a tied head is the embedding's, which
// is acquired while the head's unit is held.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/decoder/block.h"
#include "model/decoder/norm.h"
#include "model/model.h"
#include "model/weights.h"

namespace vax::model {

class Head {
 public:
  Head(const Spec& spec, const BlockDims& dims);

  // Units in the order in which run() and logits() acquire them, run() those of gradients.
  std::vector<int> unit_uses() const;
  std::vector<int> gradient_uses() const;

  // Adds the sum of cross entropies to `loss_sum`, and writes the gradient of x, [T, D] fp32;
  // `grad_TD` null: the loss alone.
  void run(const PlacedBatch& batch, const at::Tensor& x_TD, WeightSource& weights,
           GradientSink* gradients, const PassOptions& options, at::Tensor& loss_sum,
           at::Tensor* grad_TD) const;
  // Logits [N, V] fp32 of rows [N, D].
  at::Tensor logits(const at::Tensor& x_ND, WeightSource& weights) const;

  // Most bytes that run() makes on top of its input x.
  int64_t num_bytes(const BlockDims& dims, const PassShape& pass) const;

 private:
  struct Weights;  // held: the unit, and the matrix

  Norm norm_of(const UnitTensors& weights) const {
    return {norm_, norm_eps_, kFinalNormRoles, weights};
  }

  int unit_;
  bool tied_;
  int64_t vocab_size_;
  NormKind norm_;
  double norm_eps_;
  at::ScalarType compute_dtype_;
};

}  // namespace vax::model
