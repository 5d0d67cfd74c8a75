// Groups of a run: their sizes, who is in them, and the numbers of ranks that cannot be cut.
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

TEST(Mesh, ConsecutiveRanksShareUnitsAndEqualPlacesAreReplicas) {
  const dist::Communicator world = dist::Communicator::world();
  const int rank = world.rank();
  for (int size = 1; size <= world.size(); ++size) {
    if (world.size() % size != 0) continue;
    SCOPED_TRACE(size);
    const Mesh mesh = make_mesh(world, size);
    EXPECT_EQ(mesh.world->size(), world.size());
    EXPECT_EQ(mesh.self->size(), 1);
    const int first = rank / size * size;
    for (const auto* group : {&mesh.frozen, &mesh.trainable, &mesh.reduce}) {
      EXPECT_EQ((*group)->size(), size);
      EXPECT_EQ((*group)->rank(), rank - first);
      int64_t expected = 0;
      for (int member = first; member < first + size; ++member) expected += member;
      EXPECT_EQ(sum_of_ranks(**group, rank), expected);
    }
    EXPECT_EQ(mesh.replicas->size(), world.size() / size);
    EXPECT_EQ(mesh.replicas->rank(), rank / size);
    int64_t expected = 0;
    for (int member = rank % size; member < world.size(); member += size) expected += member;
    EXPECT_EQ(sum_of_ranks(*mesh.replicas, rank), expected);
    EXPECT_GE(mesh.blocked_s(), 0);
  }
}

TEST(Mesh, AllRanksAreOneShardGroupUnlessToldOtherwise) {
  const dist::Communicator world = dist::Communicator::world();
  const Mesh mesh = make_mesh(world, std::nullopt);
  EXPECT_EQ(mesh.frozen->size(), world.size());
  EXPECT_EQ(mesh.replicas->size(), 1);
}

TEST(Mesh, RefusesGroupsThatDoNotDivideTheRanks) {
  const dist::Communicator world = dist::Communicator::world();
  for (int64_t size = -1; size <= world.size() + 1; ++size) {
    if (size > 0 && world.size() % size == 0) continue;
    try {
      make_mesh(world, size);
      ADD_FAILURE() << "groups of " << size << " in " << world.size() << " ranks";
    } catch (const ConfigError& e) {
      EXPECT_EQ(std::string(e.what()),
                cat("shard.group_size: expected a divisor of the number of ranks = ", world.size(),
                    ", found ", size));
    }
  }
}

}  // namespace
}  // namespace vax::train
