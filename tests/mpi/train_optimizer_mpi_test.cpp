// The sharded optimizer on any number of ranks against one rank with the whole: the same weights,
// whether trainable units are gathered when used or all the time, and the same norm.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "dist/comm/communicator.h"
#include "model/decoder/layout.h"
#include "support/tiny_llama.h"
#include "train/base_weights.h"
#include "train/optimizer.h"

namespace vax::train {
namespace {

// A plane with its gradients and optimizer over one group.
struct Optimized {
  Plane plane;
  dist::ShardedGradients gradients;
  ShardedAdamW optimizer;

  Optimized(const FlatLayout& layout, dist::Collectives& group, bool replicate)
      : plane(layout, group, {.replicate = replicate}),
        gradients(group, plane.layout().counts(), at::kCPU),
        optimizer(plane, gradients, {.weight_decay = 0.1}) {
    const testing::NamedTensors values = testing::tiny_tensors(layout, 1);
    plane.units().begin_update();
    fill_shards(plane, [&](const FlatMember& member, int64_t first, at::Tensor destination) {
      destination.copy_(values.at(member.name).flatten().narrow(0, first, destination.numel()));
    });
    plane.units().refresh();
  }

  // Each unit's gradient comes from one rank, so that sums are exact. Returns the norm.
  double step(int number, const FlatLayout& layout) {
    const testing::NamedTensors values =
        testing::tiny_tensors(layout, 100 + static_cast<uint64_t>(number));
    gradients.zero();
    for (int unit = 0; unit < plane.units().num_units(); ++unit) {
      const at::Tensor flat = gradients.acquire(unit).flat.zero_();
      if (unit % plane.group().size() == plane.group().rank())
        for (const FlatGroup& group : layout[static_cast<size_t>(unit)].groups)
          for (const FlatMember& member : group.members)
            flat.narrow(0, member.offset, member.count).add_(values.at(member.name).flatten());
      gradients.release(unit);
    }
    gradients.finish();
    const double norm = optimizer.gradient_norm();
    optimizer.update(0.01 * number, 1 / (1 + static_cast<double>(number)));
    return norm;
  }
};

TEST(ShardedAdamW, AnyNumberOfRanksIsOneRank) {
  const FlatLayout layout = model::base_layout(testing::tiny_config());
  const std::unique_ptr<dist::Collectives> group = dist::Communicator::world().make_collectives();
  const std::unique_ptr<dist::Collectives> self = dist::make_self_collectives();
  for (const bool replicate : {false, true}) {
    SCOPED_TRACE(replicate ? "replicate" : "full");
    Optimized sharded(layout, *group, replicate), whole(layout, *self, false);
    for (int number = 1; number <= 3; ++number) {
      const double norm = sharded.step(number, layout), expected = whole.step(number, layout);
      // The pieces of a member have fp32 norms, cut differently; all ranks get one number.
      EXPECT_NEAR(norm, expected, 1e-6 * expected);
      double largest = norm;
      group->all_reduce(&largest, 1, dist::DataType::kFloat64, dist::ReduceOp::kMax).wait();
      EXPECT_EQ(norm, largest);
      for (int unit = 0; unit < sharded.plane.units().num_units(); ++unit) {
        // Every element has its own update, the same operations whoever does it: bit for bit.
        EXPECT_TRUE(
            at::equal(sharded.plane.units().acquire(unit), whole.plane.units().acquire(unit)))
            << "unit " << unit << ", update " << number;
        sharded.plane.units().release(unit);
        whole.plane.units().release(unit);
      }
    }
  }
}

TEST(ShardedAdamW, StateIsSpreadLikeTheWeights) {
  const FlatLayout layout = model::base_layout(testing::tiny_config());
  const std::unique_ptr<dist::Collectives> group = dist::Communicator::world().make_collectives();
  const Optimized sharded(layout, *group, false);
  int64_t num_bytes = 0;
  for (const FlatUnit& unit : layout)
    num_bytes += 2 * 4 * dist::make_partition(unit.count, group->rank(), group->size()).shard_count;
  EXPECT_EQ(sharded.optimizer.num_bytes(), num_bytes);
}

}  // namespace
}  // namespace vax::train
