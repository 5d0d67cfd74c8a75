// Operations complete while no rank calls MPI: the data is watched where it arrives. A large
// message needs an answer of its receiver, so that without the thread it never comes.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "dist/comm/communicator.h"

namespace vax::dist {
namespace {

constexpr int64_t kCount = 1 << 20;  // elements per rank: far beyond what is sent unasked
constexpr std::chrono::seconds kPatience{30};

// Until the word has the value, without MPI; false after a long while.
bool comes_to(int32_t& word, int32_t value) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::atomic_ref(word).load(std::memory_order_acquire) != value) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

void expect_arrival(Collectives& group) {
  std::vector<int32_t> own(kCount, group.rank() + 1);
  std::vector<int32_t> all(static_cast<size_t>(kCount * group.size()), 0);
  Work gathering = group.all_gather(own.data(), all.data(), kCount, DataType::kInt32);
  for (int rank = 0; rank < group.size(); ++rank)
    EXPECT_TRUE(comes_to(all[static_cast<size_t>((rank + 1) * kCount - 1)], rank + 1))
        << "from rank " << rank;
  gathering.wait();
}

TEST(ProgressThread, MovesOperationsOnWhileRanksCompute) {
  const std::unique_ptr<Collectives> group =
      Communicator::world(Progress::kThread).make_collectives();
  for (int round = 0; round < 3; ++round) expect_arrival(*group);
}

TEST(ProgressThread, IsSharedByWhatIsMadeFromACommunicatorAndOutlivesIt) {
  std::unique_ptr<Collectives> node, copy;
  {
    const Communicator world = Communicator::world(Progress::kThread);
    node = world.split_by_node().make_collectives();
    copy = world.split(0).duplicate().make_collectives();
  }
  expect_arrival(*node);
  expect_arrival(*copy);
}

// Many short operations: the thread falls asleep and wakes up between them.
TEST(ProgressThread, AnswersAreThoseOfPolling) {
  const Communicator world = Communicator::world(Progress::kThread);
  const std::unique_ptr<Collectives> a = world.make_collectives(), b = world.make_collectives();
  for (int32_t round = 0; round < 300; ++round) {
    int32_t sum = round + a->rank(), largest = round + b->rank();
    Work first = a->all_reduce(&sum, 1, DataType::kInt32, ReduceOp::kSum);
    Work second = b->all_reduce(&largest, 1, DataType::kInt32, ReduceOp::kMax);
    if (round % 2) second.wait();
    first.wait();
    second.wait();
    const int32_t size = a->size();
    ASSERT_EQ(sum, size * round + size * (size - 1) / 2);
    ASSERT_EQ(largest, round + size - 1);
    b->barrier();
  }
}

// Given up with operations under way, as an exception does.
TEST(ProgressThread, EndsWithPendingOperations) {
  std::vector<float> send(1000, 1), recv(send.size() * 8);
  const std::unique_ptr<Collectives> group =
      Communicator::world(Progress::kThread).make_collectives();
  const Work dropped = group->all_gather(send.data(), recv.data(), 1000, DataType::kFloat32);
  EXPECT_EQ(dropped.pending(), group->size() > 1);
}

}  // namespace
}  // namespace vax::dist
