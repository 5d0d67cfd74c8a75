// Groups of a run: their sizes, who is in them for each placement, and the numbers of ranks that
// cannot be cut. Nodes are any part of the world here, so that one machine stands for several.
#include <gtest/gtest.h>

#include "base/error.h"
#include "train/mesh.h"

namespace vax::train {
namespace {

int64_t sum_of_ranks(dist::Collectives& group, int world_rank) {
  int64_t sum = world_rank;
  group.all_reduce(&sum, 1, dist::DataType::kInt64, dist::ReduceOp::kSum).wait();
  return sum;
}

class MeshTest : public ::testing::Test {
 protected:
  // `group` consists of the ranks first, first + step, ... of the world, in this order.
  void expect_group(dist::Collectives& group, int first, int step, int size) {
    EXPECT_EQ(group.size(), size);
    EXPECT_EQ(group.rank(), (rank_ - first) / step);
    int64_t expected = 0;
    for (int i = 0; i < size; ++i) expected += first + i * step;
    EXPECT_EQ(sum_of_ranks(group, rank_), expected);
  }
  // Shard groups of `size` consecutive ranks and replicas across them.
  void expect_trainable_axes(const Mesh& mesh, int size) {
    const int first = rank_ / size * size;
    for (const auto* group : {&mesh.trainable, &mesh.reduce}) expect_group(**group, first, 1, size);
    expect_group(*mesh.replicas, rank_ % size, size, world_.size() / size);
  }
  Mesh mesh_of(const ShardOptions& shard) { return make_mesh(world_, world_, shard, false); }
  // Nodes of `size` consecutive ranks.
  dist::Communicator nodes_of(int size) { return world_.split(rank_ / size); }

  dist::Communicator world_ = dist::Communicator::world();
  int rank_ = world_.rank();
};

TEST_F(MeshTest, FullPlacementTakesConsecutiveRanks) {
  for (int size = 1; size <= world_.size(); ++size) {
    if (world_.size() % size != 0) continue;
    SCOPED_TRACE(size);
    const Mesh mesh = mesh_of({.group_size = size});
    expect_group(*mesh.world, 0, 1, world_.size());
    expect_group(*mesh.frozen, rank_ / size * size, 1, size);
    expect_group(*mesh.probe, rank_ / size * size, 1, size);
    expect_trainable_axes(mesh, size);
    EXPECT_FALSE(mesh.frozen_node || mesh.trainable_node);
    EXPECT_GE(mesh.blocked_s(), 0);
    EXPECT_EQ(mesh.sent_bytes() > 0, world_.size() > 1);
  }
}

TEST_F(MeshTest, AllRanksAreOneShardGroupUnlessToldOtherwise) {
  const Mesh mesh = mesh_of({});
  EXPECT_EQ(mesh.frozen->size(), world_.size());
  EXPECT_EQ(mesh.replicas->size(), 1);
}

// A frozen plane on the node leaves the trainable one's groups alone, and the other way round.
TEST_F(MeshTest, NodePlacementTakesTheRanksOfANode) {
  for (int size = 1; size <= world_.size(); ++size) {
    if (world_.size() % size != 0) continue;
    SCOPED_TRACE(size);
    const int first = rank_ / size * size;
    for (const Placement frozen : {Placement::kNode, Placement::kReplicate}) {
      const Mesh mesh = make_mesh(world_, nodes_of(size), {.frozen = frozen}, false);
      expect_group(*mesh.frozen, first, 1, size);
      expect_group(*mesh.probe, first, 1, size);
      expect_trainable_axes(mesh, world_.size());
      ASSERT_TRUE(mesh.frozen_node);
      EXPECT_EQ(mesh.frozen_node->size(), size);
      EXPECT_FALSE(mesh.trainable_node);
    }
    const Mesh mesh = make_mesh(world_, nodes_of(size), {.trainable = Placement::kNode}, true);
    expect_group(*mesh.frozen, 0, 1, world_.size());
    expect_group(*mesh.probe, first, 1, size);
    expect_trainable_axes(mesh, size);
    ASSERT_TRUE(mesh.trainable_node);
    EXPECT_FALSE(mesh.frozen_node);
  }
}

TEST_F(MeshTest, RefusesNodesOfDifferentSizesForTrainableWeights) {
  if (world_.size() < 3) return;
  const dist::Communicator node = world_.split(rank_ == 0 ? 0 : 1);
  EXPECT_THROW(make_mesh(world_, node, {.trainable = Placement::kNode}, false), ConfigError);
  EXPECT_EQ(make_mesh(world_, node, {.frozen = Placement::kNode}, false).frozen->size(),
            node.size());
}

TEST_F(MeshTest, RefusesGroupsThatDoNotDivideTheRanks) {
  for (int64_t size = -1; size <= world_.size() + 1; ++size) {
    if (size > 0 && world_.size() % size == 0) continue;
    try {
      mesh_of({.group_size = size});
      ADD_FAILURE() << "groups of " << size << " in " << world_.size() << " ranks";
    } catch (const ConfigError& e) {
      EXPECT_EQ(std::string(e.what()),
                cat("shard.group_size: expected a divisor of the number of ranks = ", world_.size(),
                    ", found ", size));
    }
  }
}

}  // namespace
}  // namespace vax::train
