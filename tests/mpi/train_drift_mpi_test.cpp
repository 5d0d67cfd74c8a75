// Drift against a direct computation in fp64, for any number of ranks and batches: more batches
// than ranks, fewer, and numbers that do not divide. The model's weights are the test's own, on
// every rank the same; what is spread are the batches.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "data/packing.h"
#include "dist/comm/communicator.h"
#include "model/decoder/decoder.h"
#include "support/memory_weights.h"
#include "support/tiny_llama.h"
#include "vaccine/drift.h"

namespace vax::vaccine {
namespace {

constexpr int kLayers = 3;

// Batches of three sequences, the last of one sequence with one token: it has no geometry and
// counts for everything but CKA.
std::vector<PackedBatch> make_batches(size_t count) {
  data::Dataset dataset =
      testing::tiny_dataset(testing::tiny_config(), 3 * static_cast<int64_t>(count));
  std::vector<PackedBatch> batches;
  for (size_t b = 0; b < count; ++b) {
    std::vector<const data::Sample*> samples;
    for (size_t i = 3 * b; i < 3 * b + 3; ++i) samples.push_back(&dataset.samples[i]);
    if (b > 0 && b + 1 == count) {
      dataset.samples[3 * b].ids.resize(1);
      samples.resize(1);
    }
    batches.push_back(data::pack(samples, static_cast<int64_t>(3 * b)));
  }
  return batches;
}

// e_l in fp64, [layer] of [T, D].
std::vector<at::Tensor> hidden_states(const model::Decoder& llama, model::WeightSource& weights,
                                      const PackedBatch& batch) {
  std::vector<at::Tensor> states(kLayers);
  model::PassOptions options;
  options.forward_boundary = [&](int layer, const at::Tensor& e_TD, at::Tensor&) {
    states[static_cast<size_t>(layer)] = e_TD.to(at::kDouble);
  };
  llama.forward(batch, weights, options);
  return states;
}

double number(const at::Tensor& scalar) { return scalar.item<double>(); }

// ||Xc^T Yc||_F^2 / (n - 1)^2: CKA's HSIC in the form with features, not with Gram matrices.
double hsic(const at::Tensor& x_TD, const at::Tensor& y_TD) {
  const at::Tensor x = x_TD - x_TD.mean(0, true), y = y_TD - y_TD.mean(0, true);
  const auto n = static_cast<double>(x_TD.size(0));
  return number(at::mm(x.t(), y).square().sum()) / ((n - 1) * (n - 1));
}

struct LayerSums {
  std::vector<double> l2sq;  // by batch
  double l2sq_sum = 0, reference_sq = 0, cosine = 0, both = 0, changed = 0, reference = 0;
  int64_t num_tokens = 0;

  void add(const at::Tensor& e, const at::Tensor& e_ref) {
    l2sq.push_back(number((e - e_ref).square().sum()));
    l2sq_sum += l2sq.back();
    reference_sq += number(e_ref.square().sum());
    for (int64_t t = 0; t < e.size(0); ++t)
      cosine += number(e[t].dot(e_ref[t])) / number(e[t].norm() * e_ref[t].norm());
    num_tokens += e.size(0);
    if (e.size(0) < 2) return;
    both += hsic(e, e_ref);
    changed += hsic(e, e);
    reference += hsic(e_ref, e_ref);
  }
};

class DriftTest : public ::testing::TestWithParam<size_t> {
 protected:
  dist::Communicator communicator_ = dist::Communicator::world();
  std::unique_ptr<dist::Collectives> world_ = communicator_.make_collectives();
  model::Decoder llama_{testing::tiny_config(), {}, true, at::kFloat};
  testing::MemoryWeights reference_{llama_, 1, 0.2};
  std::vector<PackedBatch> batches_ = make_batches(GetParam());
};

TEST_P(DriftTest, OfEqualWeightsIsNone) {
  DriftMeter meter(batches_, *world_);
  meter.set_reference(llama_, reference_);
  const io::DriftRecord record = meter.measure(llama_, reference_, 7);
  EXPECT_EQ(record.step, 7);
  ASSERT_EQ(record.l2sq.size(), static_cast<size_t>(kLayers));
  for (size_t l = 0; l < kLayers; ++l) {
    EXPECT_EQ(record.l2sq[l], std::vector<double>(batches_.size(), 0.0));
    EXPECT_EQ(record.relative[l], 0);
    EXPECT_NEAR(record.cosine[l], 1, 1e-6);  // norms and products of 20 numbers in fp32
    EXPECT_NEAR(record.cka[l], 1, 1e-12);    // a / sqrt(a a) in fp64
  }
}

TEST_P(DriftTest, OfChangedWeightsIsTheDirectComputation) {
  DriftMeter meter(batches_, *world_);
  meter.set_reference(llama_, reference_);
  // Another model: the change is as large as the states. Its weights may be measured twice.
  testing::MemoryWeights changed(llama_, 2, 0.2);
  meter.measure(llama_, changed, 1);
  const io::DriftRecord record = meter.measure(llama_, changed, 2);

  std::vector<LayerSums> sums(kLayers);
  std::vector<int64_t> tokens;
  int64_t samples = 0;
  for (const PackedBatch& batch : batches_) {
    const std::vector<at::Tensor> e = hidden_states(llama_, changed, batch);
    const std::vector<at::Tensor> e_ref = hidden_states(llama_, reference_, batch);
    for (size_t l = 0; l < kLayers; ++l) sums[l].add(e[l], e_ref[l]);
    tokens.push_back(batch.num_tokens());
    samples += batch.num_sequences();
  }
  EXPECT_EQ(record.tokens, tokens);
  EXPECT_EQ(record.samples, samples);
  for (size_t l = 0; l < kLayers; ++l) {
    const LayerSums& sum = sums[l];
    ASSERT_EQ(record.l2sq[l].size(), batches_.size());
    // The meter works in fp32 within a batch, in fp64 over batches: some 6e-8 a rounding, over
    // differences of numbers that are as large as their difference.
    for (size_t b = 0; b < batches_.size(); ++b)
      EXPECT_NEAR(record.l2sq[l][b], sum.l2sq[b], 2e-6 * sum.l2sq[b]);
    EXPECT_NEAR(record.relative[l], std::sqrt(sum.l2sq_sum / sum.reference_sq), 4e-6);
    EXPECT_NEAR(record.cosine[l], sum.cosine / static_cast<double>(sum.num_tokens), 1e-6);
    EXPECT_NEAR(record.cka[l], sum.both / std::sqrt(sum.changed * sum.reference), 4e-6);
    EXPECT_LT(record.cka[l], 0.99) << "a change that CKA does not see tests nothing";
  }
}

TEST_P(DriftTest, WithoutAReferenceIsALogicError) {
  DriftMeter meter(batches_, *world_);
  EXPECT_THROW(meter.measure(llama_, reference_, 0), std::logic_error);
}

INSTANTIATE_TEST_SUITE_P(Batches, DriftTest, ::testing::Values(1, 3, 6));

}  // namespace
}  // namespace vax::vaccine
