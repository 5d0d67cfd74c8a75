// One copy that all ranks see, and refusals that every rank hears of. The ranks of the tests share
// a host.
#include "dist/shard/shared_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"

namespace vax::dist {
namespace {

class SharedMemoryTest : public testing::Test {
 protected:
  const Communicator node_ = Communicator::world().split_by_node();
  const int rank_ = node_.rank(), size_ = node_.size();
};

int64_t* words(const SharedMemory& memory) { return static_cast<int64_t*>(memory.data()); }

TEST_F(SharedMemoryTest, IsZeroAlignedAndSeenByAllRanks) {
  for (const int64_t count : {1, 511, 512, 513, 100'000}) {
    SharedMemory memory(node_, count * size_ * 8);
    EXPECT_EQ(memory.num_bytes(), count * size_ * 8);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % 64, 0u);
    for (int64_t i = 0; i < count * size_; ++i) ASSERT_EQ(words(memory)[i], 0) << i;
    memory.barrier();
    for (int64_t i = 0; i < count; ++i) words(memory)[rank_ * count + i] = 1000 * rank_ + i;
    memory.barrier();
    for (int64_t i = 0; i < count * size_; ++i)
      ASSERT_EQ(words(memory)[i], 1000 * (i / count) + i % count) << i;
    memory.barrier();  // before it goes: all have read
  }
}

// Readers and writers take turns: a barrier that let anyone through early would show a number of
// another round.
TEST_F(SharedMemoryTest, BarrierSeparatesWritesFromReads) {
  SharedMemory memory(node_, size_ * 8);
  for (int64_t round = 1; round <= 500; ++round) {
    words(memory)[rank_] = round;
    memory.barrier();
    for (int rank = 0; rank < size_; ++rank) ASSERT_EQ(words(memory)[rank], round);
    memory.barrier();
  }
}

// A rank that leaves early must not wait for the others, nor take the memory from them.
TEST_F(SharedMemoryTest, LivesUntilTheLastRankLeaves) {
  std::optional<SharedMemory> memory(std::in_place, node_, 8 * size_);
  words(*memory)[rank_] = rank_ + 7;
  memory->barrier();
  if (rank_ == 0) memory.reset();
  node_.all_gather_text("");  // rank 0 has left
  if (rank_ != 0) {
    EXPECT_EQ(words(*memory)[0], 7);
  }
}

TEST_F(SharedMemoryTest, NothingIsLegal) {
  SharedMemory memory(node_, 0);
  memory.barrier();
  EXPECT_EQ(memory.num_bytes(), 0);
  EXPECT_NE(memory.data(), nullptr);
}

TEST_F(SharedMemoryTest, MoreThanTheNodeHasIsRefusedOnEveryRankWithBothFigures) {
  const int64_t too_much = std::numeric_limits<int64_t>::max() / 4;
  try {
    SharedMemory memory(node_, too_much);
    FAIL() << "a block of " << too_much << " bytes was made";
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(std::to_string(too_much)), std::string::npos) << message;
    EXPECT_NE(message.find("bytes are available"), std::string::npos) << message;
  }
}

TEST_F(SharedMemoryTest, GroupsOfASplitHaveTheirOwn) {
  const Communicator part = node_.split(rank_ % 2);
  SharedMemory memory(part, 8);
  if (part.rank() == 0) words(memory)[0] = 50 + rank_ % 2;
  memory.barrier();
  EXPECT_EQ(words(memory)[0], 50 + rank_ % 2);
}

TEST_F(SharedMemoryTest, NegativeSizeIsALogicErrorOnEveryRank) {
  EXPECT_THROW(SharedMemory(node_, -1), std::logic_error);
}

}  // namespace
}  // namespace vax::dist
