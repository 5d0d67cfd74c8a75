#include "vaccine/drift.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>

#include "base/error.h"
#include "base/narrow.h"
#include "ops/device/transfer.h"

namespace vax::vaccine {
namespace {

// Sums per layer that are additive over batches and ranks.
enum Sum { kL2sq, kReferenceSq, kCosine, kHsicBoth, kHsicNew, kHsicReference, kNumSums };

// tr(K H L H) for the Gram matrices of centred features, divided by (n - 1)^2.
at::Tensor hsic(const at::Tensor& gram_a, const at::Tensor& gram_b) {
  const auto n = static_cast<double>(gram_a.size(0));
  return at::dot(gram_a.flatten(), gram_b.flatten()).to(at::kDouble) / ((n - 1) * (n - 1));
}

at::Tensor centred_gram(const at::Tensor& e_TD) {
  const at::Tensor centred = e_TD - e_TD.mean(0, true);
  return at::mm(centred, centred.t());
}

// Of one batch and layer: fp64 [kNumSums], in the order of Sum.
at::Tensor layer_sums(const at::Tensor& e_TD, const at::Tensor& reference_TD) {
  std::array<at::Tensor, kNumSums> sums;
  sums[kL2sq] = (e_TD - reference_TD).square().sum(1).sum(at::kDouble);
  sums[kReferenceSq] = reference_TD.square().sum(1).sum(at::kDouble);
  sums[kCosine] = at::cosine_similarity(e_TD, reference_TD, 1).sum(at::kDouble);
  if (e_TD.size(0) < 2) {
    sums[kHsicBoth] = sums[kHsicNew] = sums[kHsicReference] = at::zeros_like(sums[kL2sq]);
  } else {
    const at::Tensor gram = centred_gram(e_TD), reference_gram = centred_gram(reference_TD);
    sums[kHsicBoth] = hsic(gram, reference_gram);
    sums[kHsicNew] = hsic(gram, gram);
    sums[kHsicReference] = hsic(reference_gram, reference_gram);
  }
  return at::stack(sums);
}

}  // namespace

DriftMeter::DriftMeter(std::vector<PackedBatch> batches, dist::Collectives& world)
    : batches_(std::move(batches)), world_(world) {}

size_t DriftMeter::num_rounds() const {
  const auto size = static_cast<size_t>(world_.size());
  return (batches_.size() + size - 1) / size;
}

const PackedBatch& DriftMeter::batch_of(size_t round) const {
  const size_t index =
      round * static_cast<size_t>(world_.size()) + static_cast<size_t>(world_.rank());
  return index < batches_.size() ? batches_[index] : none_;
}

DriftMeter::LayerStates DriftMeter::hidden_states(const model::Model& model,
                                                  model::WeightSource& weights,
                                                  const PackedBatch& batch) {
  LayerStates states(static_cast<size_t>(model.num_layers()));
  model::PassOptions options;
  options.forward_boundary = [&](int layer, const at::Tensor& e_TD, at::Tensor&) {
    states[static_cast<size_t>(layer)] = e_TD.to(at::kFloat, false, true);
  };
  model.forward(batch, weights, options);
  return states;
}

int64_t DriftMeter::reference_bytes(const model::Model& model) const {
  int64_t num_tokens = 0;
  for (size_t round = 0; round < num_rounds(); ++round) num_tokens += batch_of(round).num_tokens();
  return num_tokens * model.num_layers() * model.hidden_size() *
         static_cast<int64_t>(sizeof(float));
}

void DriftMeter::set_reference(const model::Model& model, model::WeightSource& weights) {
  reference_.clear();
  for (size_t round = 0; round < num_rounds(); ++round)
    reference_.push_back(hidden_states(model, weights, batch_of(round)));
}

io::DriftRecord DriftMeter::measure(const model::Model& model, model::WeightSource& weights,
                                    int64_t step) {
  VAX_CHECK(reference_.size() == num_rounds(), "drift is measured against a reference");
  const auto num_layers = static_cast<size_t>(model.num_layers());
  const size_t num_batches = batches_.size();
  // [layer][sum], then l2sq [layer][batch]; one reduction for all.
  std::vector<double> sums(num_layers * (kNumSums + num_batches), 0.0);
  double* const l2sq = sums.data() + num_layers * kNumSums;
  for (size_t round = 0; round < num_rounds(); ++round) {
    const PackedBatch& batch = batch_of(round);
    const LayerStates states = hidden_states(model, weights, batch);
    if (batch.empty()) continue;
    const size_t index = static_cast<size_t>(&batch - batches_.data());
    std::vector<at::Tensor> of_layers;
    for (size_t l = 0; l < num_layers; ++l)
      of_layers.push_back(layer_sums(states[l], reference_[round][l]));
    const at::Tensor sums_LS = ops::device::to_host(at::stack(of_layers));
    const auto* const batch_sums = sums_LS.const_data_ptr<double>();
    for (size_t i = 0; i < num_layers * kNumSums; ++i) sums[i] += batch_sums[i];
    for (size_t l = 0; l < num_layers; ++l)
      l2sq[l * num_batches + index] = batch_sums[l * kNumSums + kL2sq];
  }
  world_
      .all_reduce(sums.data(), narrow<int64_t>(sums.size()), dist::DataType::kFloat64,
                  dist::ReduceOp::kSum)
      .wait();

  io::DriftRecord record{.step = step};
  int64_t num_tokens = 0;
  for (const PackedBatch& batch : batches_) {
    record.samples += batch.num_sequences();
    record.tokens.push_back(batch.num_tokens());
    num_tokens += batch.num_tokens();
  }
  for (size_t l = 0; l < num_layers; ++l) {
    const double* const s = sums.data() + l * kNumSums;
    record.l2sq.emplace_back(l2sq + l * num_batches, l2sq + (l + 1) * num_batches);
    record.relative.push_back(std::sqrt(s[kL2sq] / s[kReferenceSq]));
    record.cosine.push_back(s[kCosine] / static_cast<double>(num_tokens));
    record.cka.push_back(s[kHsicBoth] / std::sqrt(s[kHsicNew] * s[kHsicReference]));
  }
  return record;
}

}  // namespace vax::vaccine
