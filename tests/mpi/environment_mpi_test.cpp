// Ranks, splits and texts. The host of the tests is one machine, so the ranks of a node are all.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "dist/comm/communicator.h"
#include "dist/comm/environment.h"

namespace vax::dist {
namespace {

TEST(EnvironmentMpi, OnlyOneCanBeMade) {
  int argc = 0;
  char** argv = nullptr;
  EXPECT_THROW(Environment(&argc, &argv), CommError);
}

TEST(CommunicatorMpi, SplitGroupsEqualColorsInRankOrder) {
  const Communicator world = Communicator::world();
  const int color = world.rank() % 2;
  const Communicator part = world.split(color);
  EXPECT_EQ(part.rank(), world.rank() / 2);
  EXPECT_EQ(part.size(), (world.size() + 1 - color) / 2);
  const std::vector<std::string> members = part.all_gather_text(std::to_string(world.rank()));
  for (int i = 0; i < part.size(); ++i) EXPECT_EQ(members[i], std::to_string(2 * i + color));
}

TEST(CommunicatorMpi, NegativeColorIsAnErrorOnEveryRank) {
  const Communicator world = Communicator::world();
  EXPECT_THROW(world.split(-1), std::logic_error);
}

TEST(CommunicatorMpi, SplitByNodeHoldsTheRanksOfThisHost) {
  const Communicator world = Communicator::world();
  const Communicator node = world.split_by_node();
  EXPECT_EQ(node.rank(), world.rank());
  EXPECT_EQ(node.size(), world.size());
}

TEST(CommunicatorMpi, DuplicateAndMoveKeepTheGroup) {
  Communicator copy = Communicator::world().duplicate();
  const int rank = copy.rank(), size = copy.size();
  Communicator moved = std::move(copy);
  EXPECT_EQ(moved.rank(), rank);
  moved = Communicator::world();
  EXPECT_EQ(moved.size(), size);
}

// Text with a zero byte and an empty one: lengths decide, not terminators.
TEST(CommunicatorMpi, AllGatherTextKeepsBytesAndOrder) {
  const Communicator world = Communicator::world();
  const auto text_of = [](int rank) {
    return rank == 0 ? std::string() : std::string(static_cast<size_t>(rank), 'a') + '\0' + "z";
  };
  const std::vector<std::string> texts = world.all_gather_text(text_of(world.rank()));
  ASSERT_EQ(texts.size(), static_cast<size_t>(world.size()));
  for (int rank = 0; rank < world.size(); ++rank) EXPECT_EQ(texts[rank], text_of(rank));
}

TEST(CommunicatorMpi, BroadcastTextReplacesEveryText) {
  const Communicator world = Communicator::world();
  for (int root = 0; root < world.size(); ++root) {
    const std::string sent = "from " + std::to_string(root) + std::string(1, '\0');
    const std::string mine = world.rank() == root ? sent : "something that is longer than that";
    EXPECT_EQ(world.broadcast_text(mine, root), sent);
  }
  EXPECT_EQ(world.broadcast_text("", 0), "");
  EXPECT_THROW(world.broadcast_text("x", world.size()), std::logic_error);
}

TEST(CommunicatorMpi, CollectivesOutliveTheCommunicator) {
  std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  int32_t one = 1;
  group->all_reduce(&one, 1, DataType::kInt32, ReduceOp::kSum).wait();
  EXPECT_EQ(one, group->size());
}

TEST(CommunicatorMpi, GroupOfOneNeedsNoMpi) {
  const Communicator world = Communicator::world();
  EXPECT_EQ(world.split(world.rank()).make_collectives()->name(), "self");
  EXPECT_EQ(world.make_collectives()->name(), world.size() == 1 ? "self" : "mpi");
}

}  // namespace
}  // namespace vax::dist
