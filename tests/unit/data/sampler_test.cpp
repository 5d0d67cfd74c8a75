// The order of rows and their way to ranks and micro-batches.
#include "data/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/error.h"
#include "data/packing.h"
#include "data_test_support.h"

namespace vax::data {
namespace {

using test::expect_error;
using Rows = std::vector<int64_t>;

Rows ascending(int64_t count) {
  Rows rows(static_cast<size_t>(count));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  return rows;
}

TEST(Sampler, WithoutShuffleStepsFollowTheFile) {
  Sampler sampler({.num_rows = 7, .global_batch = 3, .shuffle = false});
  EXPECT_EQ(sampler.steps_per_epoch(), 3);
  EXPECT_EQ(sampler.rows_of_step(1).rows, Rows({0, 1, 2}));
  EXPECT_EQ(sampler.rows_of_step(3).rows, Rows({6}));
  EXPECT_EQ(sampler.rows_of_step(3).epoch, 0);
  EXPECT_EQ(sampler.rows_of_step(4).rows, Rows({0, 1, 2}));
  EXPECT_EQ(sampler.rows_of_step(4).epoch, 1);
}

TEST(Sampler, AnEpochIsAPermutation) {
  for (const int64_t n : {1, 2, 5, 100, 1001}) {
    const Sampler sampler({.num_rows = n, .seed = 3});
    Rows order = sampler.epoch_order(4);
    std::ranges::sort(order);
    EXPECT_EQ(order, ascending(n));
  }
}

TEST(Sampler, StepsOfAnEpochAreItsOrder) {
  Sampler sampler({.num_rows = 23, .global_batch = 5, .seed = 9});
  Rows seen;
  for (int64_t step = 6; step <= 10; ++step) {
    const StepRows rows = sampler.rows_of_step(step);
    EXPECT_EQ(rows.epoch, 1);
    EXPECT_EQ(rows.rows.size(), step == 10 ? 3u : 5u);
    seen.insert(seen.end(), rows.rows.begin(), rows.rows.end());
  }
  EXPECT_EQ(seen, sampler.epoch_order(1));
}

TEST(Sampler, OrderDependsOnSeedAndEpochOnly) {
  const Sampler a({.num_rows = 50, .global_batch = 3, .seed = 1});
  const Sampler b({.num_rows = 50, .global_batch = 7, .seed = 1});
  const Sampler c({.num_rows = 50, .global_batch = 3, .seed = 2});
  EXPECT_EQ(a.epoch_order(2), b.epoch_order(2));
  EXPECT_NE(a.epoch_order(2), a.epoch_order(3));
  EXPECT_NE(a.epoch_order(2), c.epoch_order(2));
}

TEST(Sampler, AnyStepCanBeAskedForFirst) {
  // A resumed run starts in the middle of an epoch.
  const SamplerOptions options{.num_rows = 31, .global_batch = 4, .seed = 42};
  Sampler through(options);
  for (int64_t step = 1; step <= 40; ++step) {
    const StepRows expected = through.rows_of_step(step);
    Sampler fresh(options);
    EXPECT_EQ(fresh.rows_of_step(step).rows, expected.rows) << step;
  }
}

TEST(Sampler, EveryRowIsEquallyLikelyEverywhere) {
  // 24,000 shuffles of 4 rows: each of the 24 orders 1000 times, deviation sqrt(1000 * 23/24) = 31;
  // 6 deviations for 24 counts fail by chance in less than one of 10^7 seeds (and the seed is
  // fixed).
  const Sampler sampler({.num_rows = 4, .seed = 5});
  std::vector<int> counts(256);
  for (int64_t epoch = 0; epoch < 24000; ++epoch) {
    const Rows order = sampler.epoch_order(epoch);
    ++counts[static_cast<size_t>(order[0] + 4 * order[1] + 16 * order[2] + 64 * order[3])];
  }
  EXPECT_EQ(std::ranges::count_if(counts, [](int c) { return c > 0; }), 24);
  for (const int count : counts) {
    if (count > 0) {
      EXPECT_NEAR(count, 1000, 6 * 31);
    }
  }
}

TEST(Sampler, OrderOfASeedIsFixedForever) {
  // From an independent program (Philox, SplitMix64 and FNV-1a written out in Python): a change
  // here changes every run that names its seed.
  const Sampler sampler({.num_rows = 10, .seed = 42});
  EXPECT_EQ(sampler.epoch_order(0), Rows({8, 9, 2, 3, 1, 7, 5, 6, 4, 0}));
  EXPECT_EQ(sampler.epoch_order(1), Rows({1, 9, 3, 5, 0, 6, 7, 4, 2, 8}));
}

TEST(Sampler, RefusesEmptyDataAndBatches) {
  expect_error<ConfigError>([] { Sampler({.num_rows = 0}); }, {"no rows"});
  expect_error<ConfigError>([] { Sampler({.num_rows = 1, .global_batch = 0}); },
                            {"train.global_batch", "found 0"});
  Sampler sampler({.num_rows = 1});
  EXPECT_THROW(sampler.rows_of_step(0), std::logic_error);
}

TEST(Share, BlocksAreContiguousAndTheFirstRanksHaveOneMore) {
  for (int64_t n = 0; n <= 17; ++n) {
    for (int world = 1; world <= 6; ++world) {
      int64_t next = 0;
      for (int rank = 0; rank < world; ++rank) {
        const Share share = share_of(n, rank, world);
        EXPECT_EQ(share.begin, next);
        EXPECT_EQ(share.count, n / world + (rank < n % world ? 1 : 0));
        next += share.count;
      }
      EXPECT_EQ(next, n);
    }
  }
}

// Row r has r % 4 + 2 ids, 100 * r + t each, labels from id 1 + r % 2 on.
Dataset make_dataset(int64_t num_rows) {
  Dataset dataset;
  for (int64_t row = 0; row < num_rows; ++row) {
    Sample sample;
    for (int64_t t = 0; t < row % 4 + 2; ++t) sample.ids.push_back(100 * row + t);
    sample.label_begin = 1 + row % 2;
    dataset.samples.push_back(sample);
  }
  return dataset;
}

void expect_consistent(const PackedBatch& batch) {
  ASSERT_EQ(batch.offsets.front(), 0);
  ASSERT_EQ(batch.offsets.back(), batch.num_tokens());
  ASSERT_EQ(batch.positions.size(), batch.ids.size());
  ASSERT_EQ(batch.rows.size(), batch.ids.size());
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    for (auto t = batch.offsets[s]; t < batch.offsets[s + 1]; ++t) {
      EXPECT_EQ(batch.positions[t], t - batch.offsets[s]);
      EXPECT_EQ(batch.rows[t], batch.rows[batch.offsets[s]]);
    }
  }
  ASSERT_EQ(batch.label_positions.size(), batch.targets.size());
  for (size_t i = 0; i < batch.targets.size(); ++i) {
    const auto t = static_cast<size_t>(batch.label_positions[i]);
    ASSERT_LT(t + 1, batch.ids.size());
    EXPECT_EQ(batch.ids[t + 1], batch.targets[i]);
    EXPECT_EQ(batch.rows[t + 1], batch.rows[t]) << "a label crosses two sequences";
  }
}

TEST(Pack, LaysSequencesEndToEnd) {
  Sample a{.ids = {1, 10, 11, 2}, .label_begin = 2};
  Sample b{.ids = {1, 20}, .label_begin = 5, .cut = true};  // cut before any label
  Sample c{.ids = {1, 30, 2}, .label_begin = 1};
  const std::vector<const Sample*> samples{&a, &b, &c};
  const PackedBatch batch = pack(samples, 4);
  EXPECT_EQ(batch.ids, Rows({1, 10, 11, 2, 1, 20, 1, 30, 2}));
  EXPECT_EQ(batch.positions, std::vector<int32_t>({0, 1, 2, 3, 0, 1, 0, 1, 2}));
  EXPECT_EQ(batch.rows, std::vector<int32_t>({4, 4, 4, 4, 5, 5, 6, 6, 6}));
  EXPECT_EQ(batch.offsets, std::vector<int32_t>({0, 4, 6, 9}));
  EXPECT_EQ(batch.label_positions, Rows({1, 2, 6, 7}));
  EXPECT_EQ(batch.targets, Rows({11, 2, 30, 2}));
  expect_consistent(batch);
}

TEST(Pack, NothingGivesAnEmptyBatch) {
  const PackedBatch batch = pack({}, 0);
  EXPECT_TRUE(batch.empty());
  EXPECT_EQ(batch.num_sequences(), 0);
  EXPECT_EQ(batch.offsets, std::vector<int32_t>({0}));
}

// All sequences of a step as (row in the global batch, ids, targets), whoever has them.
using Sequences = std::vector<std::tuple<int32_t, Rows, Rows>>;

void append_sequences(const PackedBatch& batch, Sequences& sequences) {
  size_t label = 0;
  for (size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
    const auto begin = batch.offsets[s], end = batch.offsets[s + 1];
    Rows targets;
    while (label < batch.targets.size() && batch.label_positions[label] < end)
      targets.push_back(batch.targets[label++]);
    sequences.emplace_back(batch.rows[static_cast<size_t>(begin)],
                           Rows(batch.ids.begin() + begin, batch.ids.begin() + end), targets);
  }
}

TEST(PackShare, RanksAndMicroBatchesOnlyCutTheSameSequence) {
  const Dataset dataset = make_dataset(20);
  for (const int64_t num_rows : {1, 5, 8, 13}) {
    Rows rows;
    for (int64_t i = 0; i < num_rows; ++i) rows.push_back((i * 7 + 3) % 20);
    Sequences expected;
    append_sequences(pack_share(dataset, rows, 0, 1, std::nullopt).at(0), expected);
    ASSERT_EQ(expected.size(), rows.size());
    for (int world = 1; world <= 5; ++world) {
      for (const std::optional<int64_t> micro : {std::optional<int64_t>{}, {1}, {2}, {3}, {100}}) {
        Sequences found;
        for (int rank = 0; rank < world; ++rank) {
          const auto batches = pack_share(dataset, rows, rank, world, micro);
          EXPECT_EQ(static_cast<int64_t>(batches.size()),
                    num_micro_batches(num_rows, world, micro));
          for (const PackedBatch& batch : batches) {
            expect_consistent(batch);
            EXPECT_LE(batch.num_sequences(), micro.value_or(num_rows));
            append_sequences(batch, found);
          }
        }
        EXPECT_EQ(found, expected) << num_rows << " rows, " << world << " ranks";
      }
    }
  }
}

TEST(PackShare, RanksWithFewerRowsGetEmptyMicroBatches) {
  const Dataset dataset = make_dataset(5);
  const Rows rows = ascending(5);
  const auto first = pack_share(dataset, rows, 0, 2, 1);   // 3 rows
  const auto second = pack_share(dataset, rows, 1, 2, 1);  // 2 rows
  ASSERT_EQ(first.size(), 3u);
  ASSERT_EQ(second.size(), 3u);
  EXPECT_FALSE(first[2].empty());
  EXPECT_TRUE(second[2].empty());
  const auto idle = pack_share(dataset, Rows{0}, 3, 4, std::nullopt);
  ASSERT_EQ(idle.size(), 1u);
  EXPECT_TRUE(idle[0].empty());
}

TEST(PackShare, RefusesBadArguments) {
  const Dataset dataset = make_dataset(2);
  const Rows rows{0, 2};
  EXPECT_THROW(pack_share(dataset, rows, 0, 1, std::nullopt), std::logic_error);
  EXPECT_THROW(pack_share(dataset, Rows{0}, 2, 2, std::nullopt), std::logic_error);
  expect_error<ConfigError>([&] { pack_share(dataset, Rows{0}, 0, 1, 0); },
                            {"train.micro_batch", "found 0"});
}

}  // namespace
}  // namespace vax::data
