#include "model/decoder/head.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "base/narrow.h"
#include "model/decoder/adapted_linear.h"
#include "ops/head_loss.h"
#include "ops/linear.h"

namespace vax::model {
namespace {

constexpr int kEmbeddingUnit = 0;

}  // namespace

struct Head::Weights {
  Weights(const Head& head, WeightSource& source) : unit(source, head.unit_) {
    if (head.tied_) embedding.emplace(source, kEmbeddingUnit);
  }
  const at::Tensor& matrix_VD() const { return embedding ? (*embedding)[kEmbedding] : unit[kHead]; }

  HeldWeights unit;
  std::optional<HeldWeights> embedding;
};

Head::Head(const Spec& spec, const BlockDims& dims)
    : unit_(narrow<int>(spec.num_layers + 1)),
      tied_(spec.tied_head),
      vocab_size_(spec.vocab_size),
      norm_(spec.norm),
      norm_eps_(spec.norm_eps),
      compute_dtype_(dims.compute_dtype) {}

std::vector<int> Head::unit_uses() const {
  return tied_ ? std::vector{unit_, kEmbeddingUnit} : std::vector{unit_};
}

std::vector<int> Head::gradient_uses() const {
  return tied_ ? std::vector{kEmbeddingUnit, unit_} : std::vector{unit_};
}

void Head::run(const PlacedBatch& batch, const at::Tensor& x_TD, WeightSource& weights,
               GradientSink* gradients, const PassOptions& options, at::Tensor& loss_sum,
               at::Tensor* grad_TD) const {
  const Weights held(*this, weights);
  const Norm norm = norm_of(held.unit.all());
  const at::Tensor label_rows = borrowed(batch.label_positions, x_TD.device());
  const at::Tensor loss_scale =
      options.loss_scale.defined() ? options.loss_scale : at::ones({}, loss_sum.options());
  const at::Tensor x_ND = x_TD.index_select(0, label_rows);
  NormSaved saved;
  const at::Tensor normed_ND = norm.forward(x_ND, compute_dtype_, saved);

  at::Tensor dnormed_ND, dw_VD;
  if (grad_TD == nullptr)
    return ops::head_loss(normed_ND, held.matrix_VD(), batch.targets, loss_scale, loss_sum,
                          dnormed_ND, dw_VD);

  HeldGradients matrix_gradients(gradients, tied_ ? kEmbeddingUnit : unit_);
  dnormed_ND = at::empty_like(normed_ND);
  dw_VD = matrix_gradients.of(tied_ ? kEmbedding : kHead);
  ops::head_loss(normed_ND, held.matrix_VD(), batch.targets, loss_scale, loss_sum, dnormed_ND,
                 dw_VD, matrix_gradients.accumulate());
  std::optional<HeldGradients> norm_gradients;
  if (tied_) {
    matrix_gradients.release();
    norm_gradients.emplace(gradients, unit_);
  }
  at::Tensor dx_ND = at::zeros_like(x_ND);
  norm.backward(dnormed_ND, x_ND, saved, (tied_ ? *norm_gradients : matrix_gradients).get(), dx_ND);
  *grad_TD = at::zeros_like(x_TD).index_copy_(0, label_rows, dx_ND);
}

at::Tensor Head::logits(const at::Tensor& x_ND, WeightSource& weights) const {
  const Weights held(*this, weights);
  NormSaved unused;
  const at::Tensor normed_ND = norm_of(held.unit.all()).forward(x_ND, compute_dtype_, unused);
  at::Tensor z_NV = at::empty({x_ND.size(0), vocab_size_}, normed_ND.options());
  ops::linear_forward(normed_ND, held.matrix_VD(), at::Tensor(), z_NV);
  return z_NV.to(at::kFloat);
}

// Label rows and logits first, then the stream's gradient.
int64_t Head::num_bytes(const BlockDims& dims, const PassShape& pass) const {
  constexpr int64_t kFloatBytes = sizeof(float);
  const int64_t s = dims.element_bytes(), hidden = dims.hidden_size;
  const bool with_weight = dims.train_base && pass.weight_gradients;
  const int64_t rows = ((kFloatBytes + 2 * s) * hidden + norm_saved_bytes(norm_)) * pass.num_labels;
  const int64_t chunk = std::min(
      pass.num_labels, ops::head_loss_chunk_rows(vocab_size_, s, with_weight || pass.on_device));
  const int64_t product = weight_product_bytes(dims, pass, vocab_size_, hidden);
  const int64_t gradients = kFloatBytes * hidden * (pass.num_labels + pass.num_tokens);
  return rows + std::max(s * vocab_size_ * chunk + product, gradients);
}

}  // namespace vax::model
