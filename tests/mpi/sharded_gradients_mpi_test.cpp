// Reduced gradients against sums computed on every rank. Values are small integers: sums are exact
// whatever the number of ranks, so comparisons need no tolerance. What depends on rounding is
// compared with the same additions in rank order, bit by bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/flat_layout.h"
#include "dist/comm/communicator.h"
#include "dist/shard/sharded_units.h"

namespace vax::dist {
namespace {

const std::vector<int64_t> kUnitCounts = {97, 1, 0, 240, 31};
constexpr int kNumUnits = 5;

// What `rank` contributes to `unit` in micro-batch `micro`.
at::Tensor contribution(int rank, int unit, int micro) {
  return at::arange(kUnitCounts[unit], at::kFloat).remainder(13) +
         static_cast<float>(rank * 3 + unit + 5 * micro);
}

// The unit's buffer, to be added to.
at::Tensor zeroed(ShardedGradients& gradients, int unit) {
  GradientBuffer buffer = gradients.acquire(unit);
  if (!buffer.accumulate) buffer.flat.zero_();
  return buffer.flat;
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
    zeroed(gradients, unit).add_(contribution(rank, unit, micro));
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
  const at::Tensor head = zeroed(gradients, 3);
  const at::Tensor embedding = zeroed(gradients, 0);
  head.add_(contribution(group->rank(), 3, 0));
  embedding.add_(contribution(group->rank(), 0, 0));
  gradients.release(0);
  gradients.release(3);
  zeroed(gradients, 0).add_(contribution(group->rank(), 0, 1));
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
  EXPECT_EQ(zeroed(gradients, 0).data_ptr(), gradients.shard(0).data_ptr());
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
  ShardedGradients gradients(*group, std::vector<int64_t>{count}, at::kCPU);
  at::Tensor expected = at::zeros({count});
  for (int micro = 0; micro < 6; ++micro) {
    zeroed(gradients, 0).add_(values(group->rank(), micro));
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

// Units whose groups leave gaps, of different sizes, so that one unit's members lie where another
// has a gap; members of 1, 7 and 35 elements, groups aligned to 16.
FlatLayout gapped_layout() {
  FlatLayout layout;
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{35, 7, 1}, {7, 7}, {1, 1, 1, 35}, {}, {35}}) {
    FlatUnit& unit = layout.emplace_back();
    for (const int64_t size : sizes)
      unit.add_group(static_cast<int>(unit.groups.size()), {{.name = "w", .shape = {size}}});
  }
  return layout;
}

void for_each_group(const FlatUnit& unit, const at::Tensor& flat, auto action) {
  for (const FlatGroup& group : unit.groups)
    action(flat.narrow(0, group.offset, group.count), group);
}

// As training does: members are written or added to, nothing else is touched.
void put_gradient(ShardedGradients& gradients, const FlatLayout& layout, int unit, float value) {
  const GradientBuffer buffer = gradients.acquire(unit);
  for_each_group(layout[unit], buffer.flat, [&](at::Tensor member, const FlatGroup& group) {
    const float v = value + static_cast<float>(group.role);
    buffer.accumulate ? member.add_(v) : member.fill_(v);
  });
  gradients.release(unit);
}

// What put_gradient(r + 1) of every rank r, `times` times, sums up to; gaps are zero.
at::Tensor expected_gradient(const FlatUnit& unit, int num_ranks, int times) {
  at::Tensor expected = at::zeros({unit.count});
  for_each_group(unit, expected, [&](at::Tensor member, const FlatGroup& group) {
    const int sum_of_ranks = num_ranks * (num_ranks + 1) / 2 + num_ranks * group.role;
    member.fill_(static_cast<float>(times * sum_of_ranks));
  });
  return expected;
}

void expect_gradient(ShardedGradients& gradients, const FlatLayout& layout,
                     const Collectives& group, int unit, int times) {
  const Partition part = make_partition(layout[unit].count, group.rank(), group.size());
  at::Tensor expected = at::zeros({part.shard_count});
  expected.narrow(0, 0, part.end - part.begin)
      .copy_(expected_gradient(layout[unit], group.size(), times)
                 .narrow(0, part.begin, part.end - part.begin));
  EXPECT_TRUE(at::equal(gradients.shard(unit), expected)) << "unit " << unit;
}

// Reductions by messages, and in shared memory.
class GradientBuffers : public testing::TestWithParam<bool> {
 protected:
  ShardedGradients make(const FlatLayout& layout) {
    return ShardedGradients(*group_, layout, at::kCPU, GetParam() ? &node_ : nullptr);
  }
  Communicator node_ = Communicator::world().split_by_node();
  std::unique_ptr<Collectives> group_ = node_.make_collectives();
  const FlatLayout layout_ = gapped_layout();
};
INSTANTIATE_TEST_SUITE_P(, GradientBuffers, testing::Bool(), [](const auto& mode) {
  return mode.param ? std::string("SharedMemory") : std::string("Messages");
});

// Rubbish from before: NaN in the shards of the last step and in every buffer.
void poison(ShardedGradients& gradients, const FlatLayout& layout) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const int num_units = static_cast<int>(layout.size());
  for (int round = 0; round < 3; ++round)
    for (int unit = 0; unit < num_units; ++unit) put_gradient(gradients, layout, unit, nan);
  gradients.finish();
}

TEST_P(GradientBuffers, AreWrittenOnceAStepThenAddedTo) {
  ShardedGradients gradients = make(layout_);
  const int num_units = static_cast<int>(layout_.size());
  const float own = static_cast<float>(group_->rank() + 1);
  for (int step = 0; step < 3; ++step) {
    poison(gradients, layout_);
    gradients.zero();
    for (int micro = 0; micro <= step; ++micro)
      for (int unit = num_units - 1; unit >= 0; --unit) put_gradient(gradients, layout_, unit, own);
    gradients.finish();
    for (int unit = 0; unit < num_units; ++unit)
      expect_gradient(gradients, layout_, *group_, unit, step + 1);
  }
}

TEST_P(GradientBuffers, OfATiedEmbeddingAreReducedTwiceAndUntouchedUnitsReadZero) {
  ShardedGradients gradients = make(layout_);
  const float own = static_cast<float>(group_->rank() + 1);
  poison(gradients, layout_);
  gradients.zero();
  for (const int unit : {0, 2, 0}) put_gradient(gradients, layout_, unit, own);
  gradients.finish();
  for (const auto& [unit, times] : {std::pair(0, 2), {1, 0}, {2, 1}, {3, 0}, {4, 0}})
    expect_gradient(gradients, layout_, *group_, unit, times);
}

TEST_P(GradientBuffers, SayWhetherToAdd) {
  ShardedGradients gradients = make(layout_);
  const bool alone = group_->size() == 1;  // the buffer is the shard
  for (int step = 0; step < 2; ++step) {
    gradients.zero();
    EXPECT_FALSE(gradients.acquire(0).accumulate);
    gradients.release(0);
    EXPECT_EQ(gradients.acquire(0).accumulate, alone);
    gradients.release(0);
    gradients.finish();
    EXPECT_EQ(gradients.acquire(1).accumulate, alone);  // finish() has made it zero
    gradients.release(1);
    gradients.finish();
  }
}

// A rank that is always late, another one every time: the others wait for it, and for nothing else.
TEST_P(GradientBuffers, WaitForRanksThatAreBehind) {
  ShardedGradients gradients = make(layout_);
  const int num_units = static_cast<int>(layout_.size());
  for (int step = 0; step < 4; ++step) {
    gradients.zero();
    for (int unit = 0; unit < num_units; ++unit) {
      if ((step + unit) % group_->size() == group_->rank())
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      put_gradient(gradients, layout_, unit, static_cast<float>(group_->rank() + 1));
    }
    gradients.finish();
    for (int unit = 0; unit < num_units; ++unit)
      expect_gradient(gradients, layout_, *group_, unit, 1);
  }
  EXPECT_GE(gradients.waited_s(), 0);
}

// The same bits both ways, with values that round, accumulated over micro-batches.
TEST(ShardedGradients, SharedMemoryAndMessagesGiveTheSameBits) {
  const Communicator node = Communicator::world().split_by_node();
  const std::unique_ptr<Collectives> group = node.make_collectives();
  constexpr int64_t kCount = 10007;
  FlatLayout layout(1);
  layout[0].add_group(0, {{.name = "w", .shape = {kCount}}});
  ShardedGradients shared(*group, layout, at::kCPU, &node), sent(*group, layout, at::kCPU);
  for (ShardedGradients* gradients : {&shared, &sent}) {
    for (int micro = 0; micro < 5; ++micro) {
      const at::Tensor index = at::arange(kCount, at::kFloat) + static_cast<float>(1000 * micro);
      const GradientBuffer buffer = gradients->acquire(0);
      const at::Tensor values = at::sin(index * (1.3f + static_cast<float>(group->rank())));
      at::Tensor member = buffer.flat.narrow(0, 0, kCount);
      buffer.accumulate ? member.add_(values) : member.copy_(values);
      gradients->release(0);
    }
    gradients->finish();
  }
  EXPECT_TRUE(at::equal(shared.shard(0), sent.shard(0)));
}

// Counted traffic and memory are those of the plan.
TEST_P(GradientBuffers, CostWhatThePlanSays) {
  ShardedGradients gradients = make(layout_);
  std::vector<int64_t> counts;
  for (const FlatUnit& unit : layout_) counts.push_back(unit.count);
  const std::vector<int> releases = {2, 1, 0, 3, 4, 0};
  const GradientPlan plan = plan_gradients(counts, group_->size(), GetParam(), releases);
  EXPECT_EQ(gradients.num_bytes(), plan.shard_bytes + plan.buffer_bytes);
  const int64_t before = group_->statistics().num_bytes;
  for (const int unit : releases) put_gradient(gradients, layout_, unit, 1);
  gradients.finish();
  EXPECT_EQ(group_->statistics().num_bytes - before, plan.reduced_bytes);
  EXPECT_EQ(plan.reduced_bytes > 0, group_->size() > 1 && !GetParam());
}

TEST(ShardedGradients, RefusesANodeOfOtherRanks) {
  const Communicator world = Communicator::world();
  if (world.size() == 1) return;  // there is no other group
  const std::unique_ptr<Collectives> group = world.make_collectives();
  const Communicator part = world.split(world.rank());
  EXPECT_THROW(ShardedGradients(*group, gapped_layout(), at::kCPU, &part), std::logic_error);
}

}  // namespace
}  // namespace vax::dist
