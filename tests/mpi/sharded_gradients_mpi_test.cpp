// Reduced gradients against sums computed on every rank. Values are small integers: sums are exact
// whatever the number of ranks, so comparisons need no tolerance. What depends on rounding is
// compared with the same additions in rank order, bit by bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "dist/communicator.h"
#include "dist/sharded_units.h"

namespace vax::dist {
namespace {

const std::vector<int64_t> kUnitCounts = {97, 1, 0, 240, 31};
constexpr int kNumUnits = 5;

// What `rank` contributes to `unit` in micro-batch `micro`.
at::Tensor contribution(int rank, int unit, int micro) {
  return at::arange(kUnitCounts[unit], at::kFloat).remainder(13) +
         static_cast<float>(rank * 3 + unit + 5 * micro);
}

at::Tensor expected_sum(int num_ranks, int unit, int num_micros) {
  at::Tensor sum = at::zeros({kUnitCounts[unit]});
  for (int micro = 0; micro < num_micros; ++micro)
    for (int rank = 0; rank < num_ranks; ++rank) sum += contribution(rank, unit, micro);
  return sum;
}

void expect_shards(ShardedGradients& gradients, const Collectives& group, int num_micros) {
  for (int unit = 0; unit < kNumUnits; ++unit) {
    const Partition part = make_partition(kUnitCounts[unit], group.rank(), group.size());
    const at::Tensor expected = expected_sum(group.size(), unit, num_micros);
    const at::Tensor& shard = gradients.shard(unit);
    const int64_t own = part.end - part.begin;
    ASSERT_EQ(shard.numel(), part.shard_count);
    EXPECT_TRUE(at::equal(shard.narrow(0, 0, own), expected.narrow(0, part.begin, own)))
        << "unit " << unit;
    EXPECT_TRUE(at::equal(shard.narrow(0, own, part.shard_count - own),
                          at::zeros({part.shard_count - own})))
        << "padding of unit " << unit;
  }
}

void add_micro_batch(ShardedGradients& gradients, int rank, int micro) {
  for (int unit = kNumUnits - 1; unit >= 0; --unit) {
    gradients.acquire(unit).add_(contribution(rank, unit, micro));
    gradients.release(unit);
  }
}

TEST(ShardedGradients, SumOverRanksAndMicroBatches) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  ShardedGradients gradients(*group, kUnitCounts, at::kCPU);
  for (int step = 0; step < 3; ++step) {
    gradients.zero();
    const int num_micros = 1 + step;
    for (int micro = 0; micro < num_micros; ++micro)
      add_micro_batch(gradients, group->rank(), micro);
    gradients.finish();
    expect_shards(gradients, *group, num_micros);
  }
}

TEST(ShardedGradients, ChunkedReductionsGiveTheSame) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives(50);
  ShardedGradients gradients(*group, kUnitCounts, at::kCPU);
  for (int micro = 0; micro < 2; ++micro) add_micro_batch(gradients, group->rank(), micro);
  gradients.finish();
  expect_shards(gradients, *group, 2);
}

// The head's and the embedding's gradient at once, the embedding's again later: a tied head.
TEST(ShardedGradients, TwoUnitsAtOnceAndOneOfThemTwice) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  ShardedGradients gradients(*group, kUnitCounts, at::kCPU);
  const at::Tensor head = gradients.acquire(3);
  const at::Tensor embedding = gradients.acquire(0);
  head.add_(contribution(group->rank(), 3, 0));
  embedding.add_(contribution(group->rank(), 0, 0));
  gradients.release(0);
  gradients.release(3);
  gradients.acquire(0).add_(contribution(group->rank(), 0, 1));
  gradients.release(0);
  gradients.finish();
  const Partition part = make_partition(kUnitCounts[0], group->rank(), group->size());
  EXPECT_TRUE(
      at::equal(gradients.shard(0).narrow(0, 0, part.end - part.begin),
                expected_sum(group->size(), 0, 2).narrow(0, part.begin, part.end - part.begin)));
}

TEST(ShardedGradients, OneRankAddsStraightIntoTheShard) {
  const std::unique_ptr<Collectives> group = make_self_collectives();
  ShardedGradients gradients(*group, kUnitCounts, at::kCPU);
  EXPECT_EQ(gradients.acquire(0).data_ptr(), gradients.shard(0).data_ptr());
  gradients.release(0);
  EXPECT_EQ(gradients.num_bytes(), (97 + 1 + 240 + 31) * 4);
  EXPECT_EQ(group->statistics().num_calls, 0);
}

// Rounding shows the order: ranks in order within a reduction, releases in order within a shard.
TEST(ShardedGradients, AdditionsHappenInAFixedOrder) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  if (group->size() == 1) return;  // one rank adds for itself
  const int64_t count = 4099;
  const auto values = [&](int rank, int micro) {
    return at::sin(at::arange(count, at::kFloat) * (1.7f + static_cast<float>(rank)) +
                   static_cast<float>(micro)) *
           at::exp(at::arange(count, at::kFloat).remainder(17));
  };
  ShardedGradients gradients(*group, {count}, at::kCPU);
  at::Tensor expected = at::zeros({count});
  for (int micro = 0; micro < 6; ++micro) {
    gradients.acquire(0).add_(values(group->rank(), micro));
    gradients.release(0);
    at::Tensor sum = values(0, micro);
    for (int rank = 1; rank < group->size(); ++rank) sum += values(rank, micro);
    expected += sum;
  }
  gradients.finish();
  const Partition part = make_partition(count, group->rank(), group->size());
  EXPECT_TRUE(at::equal(gradients.shard(0).narrow(0, 0, part.end - part.begin),
                        expected.narrow(0, part.begin, part.end - part.begin)));
}

TEST(ShardedGradients, MisuseIsALogicError) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  ShardedGradients gradients(*group, kUnitCounts, at::kCPU);
  EXPECT_THROW(gradients.release(0), std::logic_error);
  gradients.acquire(0);
  EXPECT_THROW(gradients.acquire(0), std::logic_error);
  EXPECT_THROW(gradients.zero(), std::logic_error);
  gradients.acquire(1);
  if (group->size() > 1) {
    EXPECT_THROW(gradients.acquire(3), std::logic_error);
  }
  gradients.release(1);
  gradients.release(0);
  gradients.finish();
  gradients.zero();
}

}  // namespace
}  // namespace vax::dist
