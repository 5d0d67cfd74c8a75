// One step of every method on 1..4 ranks against its definition: sequences that share one S are run
// as one micro-batch by one rank alone, all else is a sum. Loss, squares per layer and this rank's
// gradient shards must agree for every scope, direction, number of micro-batches, for LoRA and for
// full parameters with a tied head, also where ranks have no rows. Dropout is on: its masks follow
// the place in the global batch.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/error.h"
#include "support/step_run.h"

namespace vax::train {
namespace {

using testing::one_stream;
using testing::Rows;
using testing::StepRun;

constexpr int64_t kStep = 3;  // odd: two passes with an interval of 2

// Rows of one micro-batch when the largest share is cut into so many, as far as it goes.
std::optional<int64_t> micro_batch_size(int64_t num_rows, int size, int num_micro_batches) {
  const int64_t share = data::share_of(num_rows, 0, size).count;
  return (share + num_micro_batches - 1) / num_micro_batches;
}

// The sequences that share one S, each group packed as one micro-batch.
std::vector<PackedBatch> scope_groups(const Rows& rows, NormScope scope, int size,
                                      std::optional<int64_t> micro_batch) {
  if (scope == NormScope::kGlobal) return rows.share(0, 1, std::nullopt);
  std::vector<PackedBatch> groups;
  for (int rank = 0; rank < size; ++rank)
    for (PackedBatch& batch :
         rows.share(rank, size, scope == NormScope::kRank ? std::nullopt : micro_batch))
      if (!batch.empty()) groups.push_back(std::move(batch));
  return groups;
}

// Steps of one rank alone, added up.
struct Sum {
  double loss = 0, clean_loss = 0;
  std::vector<double> squares;  // by layer
  std::vector<at::Tensor> gradients;

  void add(StepRun& run, const StepOutcome& outcome) {
    loss += outcome.loss;
    clean_loss += outcome.clean_loss;
    const std::vector<double>& norms = testing::layer_norms(outcome);
    squares.resize(norms.size());
    for (size_t l = 0; l < norms.size(); ++l) squares[l] += norms[l] * norms[l];
    const std::vector<at::Tensor> more = run.copied_gradients();
    if (gradients.empty()) return void(gradients = more);
    for (size_t unit = 0; unit < more.size(); ++unit) gradients[unit].add_(more[unit]);
  }
};

class TrainStepTest : public ::testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() { directory_ = testing::step_models(); }
  static void TearDownTestSuite() { directory_.reset(); }

  // The parameter says: full parameters and a tied head, else LoRA.
  static ModelRequest request() { return testing::step_request(*directory_, GetParam()); }
  std::unique_ptr<StepRun> parallel() {
    return std::make_unique<StepRun>(request(),
                                     make_mesh(world_, world_.split_by_node(), {}, false));
  }

  static void expect_shards_of(StepRun& run, const std::vector<at::Tensor>& whole) {
    // Sums of fp32 in another order, a few roundings deep in each of the three layers.
    testing::expect_shards_of(run, whole, 1e-5);
  }

  void expect_definition(const VaccineOptions& options, int64_t num_rows, int num_micro_batches) {
    SCOPED_TRACE(cat(word_of(options.norm_scope), ", ", word_of(options.direction), ", ") +
                 std::to_string(num_rows) + " rows, " + std::to_string(num_micro_batches) +
                 " micro-batches");
    const Rows rows(num_rows);
    const auto micro_batch = micro_batch_size(num_rows, world_.size(), num_micro_batches);
    const std::unique_ptr<StepRun> run = parallel();
    for (int unit = 0; unit < run->num_units(); ++unit)
      EXPECT_EQ(run->gradient(unit).count_nonzero().item<int64_t>(), 0);
    const std::vector<PackedBatch> own = rows.share(world_.rank(), world_.size(), micro_batch);
    const StepOutcome outcome =
        run->run_vaccine(options, one_stream(kStep, own, rows.label_tokens));

    StepRun alone(request(), testing::make_self_mesh());
    Sum expected;
    VaccineOptions one_group = options;
    one_group.norm_scope = NormScope::kGlobal;
    for (const PackedBatch& group :
         scope_groups(rows, options.norm_scope, world_.size(), micro_batch))
      expected.add(alone,
                   alone.run_vaccine(one_group, one_stream(kStep, {&group, 1}, rows.label_tokens)));
    // Losses and squares are summed in fp64 from fp32 rows: relative errors of a few 1e-7, times
    // the depth of the model.
    EXPECT_NEAR(outcome.loss, expected.loss, 3e-6 * expected.loss);
    EXPECT_NEAR(outcome.clean_loss, expected.clean_loss, 3e-6 * expected.clean_loss);
    const std::vector<double>& norms = testing::layer_norms(outcome);
    ASSERT_EQ(norms.size(), 3u);
    for (size_t l = 0; l < 3; ++l)
      EXPECT_NEAR(norms[l] * norms[l], expected.squares[l], 2e-5 * expected.squares[l]);
    expect_shards_of(*run, expected.gradients);
  }

  dist::Communicator world_ = dist::Communicator::world();
  static inline std::unique_ptr<testing::SharedDirectory> directory_;
};

TEST_P(TrainStepTest, VaccineIsItsDefinitionOnOneRank) {
  for (const NormScope scope : {NormScope::kGlobal, NormScope::kRank, NormScope::kMicro})
    for (const Direction direction : {Direction::kToken, Direction::kShared})
      for (const int num_micro_batches : {1, 2})
        expect_definition({.rho = 1.5, .norm_scope = scope, .direction = direction}, 7,
                          num_micro_batches);
}

// Three rows: none for the fourth of four ranks, none in the last micro-batch of the second of two.
TEST_P(TrainStepTest, RanksWithoutRowsTakePart) {
  for (const NormScope scope : {NormScope::kGlobal, NormScope::kRank, NormScope::kMicro})
    for (const Direction direction : {Direction::kToken, Direction::kShared})
      for (const int num_micro_batches : {1, 2})
        expect_definition({.rho = 1.5, .norm_scope = scope, .direction = direction}, 3,
                          num_micro_batches);
}

TEST_P(TrainStepTest, SftIsTheSumOverAllRows) {
  const Rows rows(5);
  const std::unique_ptr<StepRun> run = parallel();
  const std::vector<PackedBatch> own = rows.share(world_.rank(), world_.size(), 1);
  const StepOutcome outcome = run->run_sft(one_stream(kStep, own, rows.label_tokens));
  StepRun alone(request(), testing::make_self_mesh());
  const std::vector<PackedBatch> all = rows.share(0, 1, std::nullopt);
  const StepOutcome expected = alone.run_sft(one_stream(kStep, all, rows.label_tokens));
  EXPECT_NEAR(outcome.loss, expected.loss, 3e-6 * expected.loss);  // as above
  EXPECT_EQ(outcome.clean_loss, outcome.loss);
  EXPECT_TRUE(testing::layer_norms(outcome).empty());
  expect_shards_of(*run, alone.copied_gradients());
}

// The pass that makes the gradients is the same code with the same dropout masks.
TEST_P(TrainStepTest, RhoZeroIsSftBitForBit) {
  const Rows rows(5);
  const std::unique_ptr<StepRun> run = parallel();
  const std::vector<PackedBatch> own = rows.share(world_.rank(), world_.size(), 1);
  const StepBatch batch = one_stream(kStep, own, rows.label_tokens);
  const StepOutcome sft = run->run_sft(batch);
  const std::vector<at::Tensor> gradients = run->copied_gradients();
  for (const NormScope scope : {NormScope::kGlobal, NormScope::kMicro}) {
    const StepOutcome vaccine = run->run_vaccine({.rho = 0, .norm_scope = scope}, batch);
    EXPECT_EQ(vaccine.loss, sft.loss);
    EXPECT_EQ(vaccine.clean_loss, sft.loss);
    for (int unit = 0; unit < run->num_units(); ++unit)
      EXPECT_TRUE(at::equal(run->gradient(unit), gradients[static_cast<size_t>(unit)])) << unit;
  }
}

TEST_P(TrainStepTest, ASmallPerturbationRaisesTheLossByRhoTimesTheNorm) {
  constexpr double kRho = 3e-3;
  const Rows rows(5);
  const std::unique_ptr<StepRun> run = parallel();
  const std::vector<PackedBatch> own = rows.share(world_.rank(), world_.size(), std::nullopt);
  const StepOutcome outcome =
      run->run_vaccine({.rho = kRho}, one_stream(kStep, own, rows.label_tokens));
  const std::vector<double>& norms = testing::layer_norms(outcome);
  const double norm = std::sqrt(std::inner_product(norms.begin(), norms.end(), norms.begin(), 0.0));
  // First order of the Taylor series along eps = rho G / |G|. The second is rho |H| / (2 |G|) of
  // it, a few per cent; the fp32 noise of the losses, 1e-6, is far below.
  EXPECT_GT(outcome.loss, outcome.clean_loss);
  EXPECT_NEAR(outcome.loss - outcome.clean_loss, kRho * norm, 0.1 * kRho * norm);
}

TEST_P(TrainStepTest, StepsBetweenIntervalsHaveOnePass) {
  const Rows rows(5);
  const std::unique_ptr<StepRun> run = parallel();
  const std::vector<PackedBatch> own = rows.share(world_.rank(), world_.size(), 2);
  StepBatch batch = one_stream(2, own, rows.label_tokens);
  const StepOutcome sft = run->run_sft(batch);
  const std::vector<at::Tensor> gradients = run->copied_gradients();
  const VaccineOptions options = {.rho = 2, .interval = 2};
  const StepOutcome between = run->run_vaccine(options, batch);
  EXPECT_EQ(between.loss, sft.loss);
  EXPECT_TRUE(testing::layer_norms(between).empty());
  for (int unit = 0; unit < run->num_units(); ++unit)
    EXPECT_TRUE(at::equal(run->gradient(unit), gradients[static_cast<size_t>(unit)])) << unit;
  batch.step = kStep;
  EXPECT_EQ(testing::layer_norms(run->run_vaccine(options, batch)).size(), 3u);
}

INSTANTIATE_TEST_SUITE_P(Trained, TrainStepTest, ::testing::Bool(), [](const auto& trained) {
  return std::string(trained.param ? "TiedBase" : "Lora");
});

}  // namespace
}  // namespace vax::train
