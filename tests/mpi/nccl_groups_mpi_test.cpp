// Groups of device memory as objects, over the stand-in of NCCL and through staging buffers: how
// operations of several groups and streams follow each other, when the host waits, which transport
// serves which ranks, and what becomes of memory, communicators and libraries.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "dist/device/nccl_communicator.h"
#include "standin/nccl/standin.h"
#include "support/device_fixture.h"

namespace vax::dist {
namespace {

using std::chrono::milliseconds;
using vax::testing::ComputeStream;
using vax::testing::DeviceArray;
using vax::testing::DeviceFixture;
using vax::testing::reduced;
using vax::testing::values;

class DeviceGroups : public ::testing::TestWithParam<Transport> {
 protected:
  DeviceGroupOptions options() const { return {.transport = GetParam(), .staging_bytes = 4096}; }
};
INSTANTIATE_TEST_SUITE_P(, DeviceGroups, ::testing::Values(Transport::kAuto, Transport::kStaged),
                         [](const auto& kind) {
                           return kind.param == Transport::kAuto ? std::string("Nccl")
                                                                 : std::string("Staged");
                         });

// The operation's stream is another one than the compute stream.
TEST_P(DeviceGroups, OrderOperationsOnTheStreamThatIsGiven) {
  DeviceFixture fixture(options());
  ComputeStream other;
  other.pause(milliseconds(20));
  const DeviceArray<float> data(other, values<float>(fixture.group->rank(), 100));
  fixture.group->all_reduce(data.data(), 100, DataType::kFloat32, ReduceOp::kSum, {other.get()})
      .wait();
  EXPECT_EQ(data.values(), reduced<float>(fixture.group->size(), 0, 100, ReduceOp::kSum));
}

// Results feed the next operation of another group, in both directions, without the host.
TEST_P(DeviceGroups, FollowEachOtherAcrossGroups) {
  DeviceFixture fixture(options());
  const auto second =
      make_device_collectives(fixture.world, fixture.stream.context(), "second", options());
  const int n = fixture.group->size();
  const auto data = fixture.late(std::vector<double>(50, 1));
  for (int round = 0; round < 4; ++round) {
    Collectives& group = round % 2 == 0 ? *fixture.group : *second;
    group.all_reduce(data.data(), 50, DataType::kFloat64, ReduceOp::kSum).wait();
    fixture.stream.run([&data] {
      for (int i = 0; i < 50; ++i) data.data()[i] += 1;
    });
  }
  double expected = 1;
  for (int round = 0; round < 4; ++round) expected = expected * n + 1;
  EXPECT_EQ(data.values(), std::vector<double>(50, expected));
}

// Several under way in two groups, waited for in another order than they were started in.
TEST_P(DeviceGroups, AreIndependentOfEachOther) {
  DeviceFixture fixture(options());
  const auto second =
      make_device_collectives(fixture.world, fixture.stream.context(), "second", options());
  const int n = fixture.group->size(), rank = fixture.group->rank();
  const auto a = fixture.late(values<int32_t>(rank, 600)),
             b = fixture.late(values<int32_t>(rank, 7)),
             c = fixture.late(values<int32_t>(rank, 900));
  Work first = fixture.group->all_reduce(a.data(), 600, DataType::kInt32, ReduceOp::kSum);
  Work other = second->all_reduce(b.data(), 7, DataType::kInt32, ReduceOp::kMax);
  Work last = fixture.group->all_reduce(c.data(), 900, DataType::kInt32, ReduceOp::kMin);
  last.wait();
  other.wait();
  first.wait();
  EXPECT_EQ(a.values(), reduced<int32_t>(n, 0, 600, ReduceOp::kSum));
  EXPECT_EQ(b.values(), reduced<int32_t>(n, 0, 7, ReduceOp::kMax));
  EXPECT_EQ(c.values(), reduced<int32_t>(n, 0, 900, ReduceOp::kMin));
}

TEST_P(DeviceGroups, OfASplitAreOfItsRanks) {
  const Communicator world = Communicator::world();
  const Communicator part = world.split(world.rank() % 2);
  ComputeStream stream;
  const auto group = make_device_collectives(part, stream.context(), "part", options());
  EXPECT_EQ(group->size(), part.size());
  EXPECT_EQ(group->name(), part.size() == 1                 ? "self"
                           : GetParam() == Transport::kAuto ? "nccl"
                                                            : "staged");
  const DeviceArray<int64_t> data(stream, {world.rank(), 1});
  group->all_reduce(data.data(), 2, DataType::kInt64, ReduceOp::kSum).wait();
  int64_t sum = 0, num = 0;
  for (int rank = world.rank() % 2; rank < world.size(); rank += 2, ++num) sum += rank;
  EXPECT_EQ(data.values(), (std::vector<int64_t>{sum, num}));
}

// The operands are not there yet, so that a call that waited on the host would not return.
TEST_P(DeviceGroups, StartWithoutTheHost) {
  DeviceFixture fixture(options());
  std::atomic<bool> go = false;
  fixture.stream.run([&go] {
    while (!go) std::this_thread::sleep_for(milliseconds(1));
  });
  const auto data = fixture.late(values<float>(fixture.group->rank(), 10));
  Work work = fixture.group->all_reduce(data.data(), 10, DataType::kFloat32, ReduceOp::kSum);
  EXPECT_FALSE(work.test());
  if (fixture.group->name() != "staged") work.wait();
  EXPECT_FALSE(go);
  go = true;
  while (!work.test()) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(data.values(), reduced<float>(fixture.group->size(), 0, 10, ReduceOp::kSum));
}

// One rank comes late, another one every time; the others see by test() that it is not there.
TEST_P(DeviceGroups, TestTellsWhenALateRankHasCome) {
  DeviceFixture fixture(options());
  const int n = fixture.group->size();
  for (int late = 0; late < n; ++late) {
    const auto data = fixture.late(values<float>(fixture.group->rank(), 10));
    fixture.world.all_gather_text("");  // the first operation connects all ranks
    if (late == fixture.group->rank()) std::this_thread::sleep_for(milliseconds(30));
    Work work = fixture.group->all_reduce(data.data(), 10, DataType::kFloat32, ReduceOp::kSum);
    while (!work.test()) std::this_thread::sleep_for(milliseconds(1));
    EXPECT_FALSE(work.pending());
    EXPECT_EQ(data.values(), reduced<float>(n, 0, 10, ReduceOp::kSum));
  }
}

TEST_P(DeviceGroups, WorksMayOutliveTheGroupAndWaitWhenTheyGo) {
  DeviceFixture fixture(options());
  const int n = fixture.group->size();
  const auto a = fixture.late(std::vector<int32_t>{1}), b = fixture.late(std::vector<int32_t>{2});
  { const Work work = fixture.group->all_reduce(a.data(), 1, DataType::kInt32, ReduceOp::kSum); }
  EXPECT_EQ(a.values(), std::vector<int32_t>{n});
  Work work = fixture.group->all_reduce(b.data(), 1, DataType::kInt32, ReduceOp::kSum);
  fixture.group.reset();
  work.wait();
  EXPECT_EQ(b.values(), std::vector<int32_t>{2 * n});
}

// More operations than may be under way, none of them waited for until the end.
TEST_P(DeviceGroups, HoldTheHostBackWhenItIsFarAhead) {
  DeviceFixture fixture(options());
  const auto data = fixture.late(std::vector<float>(40, 1));
  std::vector<Work> works;
  for (int i = 0; i < 40; ++i)
    works.push_back(fixture.group->broadcast(data.data() + i, 1, DataType::kFloat32,
                                             i % fixture.group->size()));
  for (Work& work : works) work.wait();
  EXPECT_EQ(data.values(), std::vector<float>(40, 1));
}

TEST_P(DeviceGroups, BarrierWaitsForEveryRankAndForTheStream) {
  DeviceFixture fixture(options());
  std::atomic<bool> reached = false;
  fixture.stream.pause(milliseconds(10 * fixture.group->rank()));
  fixture.stream.run([&reached] { reached = true; });
  fixture.group->barrier();
  if (fixture.group->size() > 1) {
    EXPECT_TRUE(reached);
  }
  EXPECT_EQ(fixture.group->statistics().num_calls, 1);
}

TEST_P(DeviceGroups, SynchronizeWaitsForTheComputeStream) {
  DeviceFixture fixture(options());
  const auto data = fixture.late(values<float>(fixture.group->rank(), 2000));
  fixture.group->all_reduce(data.data(), 2000, DataType::kFloat32, ReduceOp::kSum).wait();
  std::vector<float> seen;
  fixture.stream.pause(milliseconds(5));
  fixture.stream.run([&] { seen.assign(data.data(), data.data() + 2000); });
  synchronize(fixture.world, fixture.stream.context());
  EXPECT_EQ(seen, reduced<float>(fixture.group->size(), 0, 2000, ReduceOp::kSum));
}

TEST_P(DeviceGroups, CountCallsAndBytesAsHostGroupsDo) {
  DeviceFixture fixture(options());
  const int n = fixture.group->size();
  const auto whole = fixture.late(std::vector<float>(static_cast<size_t>(12 * n))),
             part = fixture.late(std::vector<float>(12));
  Collectives& group = *fixture.group;
  group.all_gather(part.data(), whole.data(), 12, DataType::kFloat32).wait();
  group.reduce_scatter(whole.data(), part.data(), 12, DataType::kFloat32, ReduceOp::kSum).wait();
  group.all_reduce(part.data(), 5, DataType::kFloat32, ReduceOp::kSum).wait();
  group.broadcast(part.data(), 7, DataType::kBFloat16, n - 1).wait();
  EXPECT_EQ(group.statistics().num_calls, 4);
  EXPECT_EQ(group.statistics().num_bytes,
            2 * 12 * 4 * (n - 1) + 2 * 5 * 4 * (n - 1) / n + (n == 1 ? 0 : 14));
}

TEST_P(DeviceGroups, RefuseWrongCallsOnEveryRank) {
  DeviceFixture fixture(options());
  float* const none = nullptr;
  Collectives& group = *fixture.group;
  EXPECT_THROW(group.all_gather(none, none, -1, DataType::kFloat32), std::logic_error);
  EXPECT_THROW(group.broadcast(none, 1, DataType::kFloat32, group.size()), std::logic_error);
  if (group.name() == "staged") {
    EXPECT_THROW(group.all_reduce(none, 1, DataType::kBFloat16, ReduceOp::kSum), std::logic_error);
    EXPECT_THROW(group.reduce_scatter(none, none, 1, DataType::kInt32, ReduceOp::kSum),
                 std::logic_error);
  }
}

// Every rank has the same device: agreed upon by all.
TEST(DeviceTransport, IsStagedWhereRanksShareADevice) {
  const Communicator world = Communicator::world();
  ComputeStream stream;
  standin::set_bus_id("0000:01:00.0");
  const auto group = make_device_collectives(world, stream.context(), "shared");
  EXPECT_EQ(group->name(), world.size() == 1 ? "self" : "staged");
  if (world.size() > 1) {
    EXPECT_THROW(
        make_device_collectives(world, stream.context(), "nccl", {.transport = Transport::kNccl}),
        ConfigError);
  }
  standin::set_bus_id("");
}

TEST(DeviceTransport, IsStagedForAllWhereOnlyTwoShareADevice) {
  const Communicator world = Communicator::world();
  ComputeStream stream;
  if (world.rank() < 2) standin::set_bus_id("0000:01:00.0");
  const auto group = make_device_collectives(world, stream.context(), "shared");
  EXPECT_EQ(group->name(), world.size() == 1 ? "self" : "staged");
  standin::set_bus_id("");
}

std::string message_of_check() {
  try {
    check_nccl_library();
  } catch (const CommError& error) {
    return error.what();
  }
  return "";
}

// Every rank finds it before it calls the others.
TEST(NcclLibrary, OfAnotherVersionIsRefused) {
  EXPECT_EQ(message_of_check(), "");
  const Communicator world = Communicator::world();
  ComputeStream stream;
  for (const int version : {NCCL_VERSION_CODE - 1, NCCL_VERSION_CODE + 10000}) {
    standin::set_version(version);
    EXPECT_NE(message_of_check().find(cat("NCCL ", version, " is loaded")), std::string::npos);
    if (world.size() > 1) {
      EXPECT_THROW(make_device_collectives(world, stream.context(), "refused"), CommError);
    }
  }
  standin::set_version(NCCL_VERSION_CODE + 1);  // newer than the headers
  EXPECT_EQ(message_of_check(), "");
  standin::set_version(NCCL_VERSION_CODE);
}

TEST(NcclLibrary, InTwoCopiesIsRefusedByName) {
  void* const second = ::dlopen(VAX_SECOND_NCCL, RTLD_NOW);
  ASSERT_NE(second, nullptr) << ::dlerror();
  const std::string message = message_of_check();
  EXPECT_NE(message.find("has 2 copies of NCCL"), std::string::npos) << message;
  EXPECT_NE(message.find(VAX_SECOND_NCCL), std::string::npos) << message;
  ::dlclose(second);
}

// What is left when a group and its memory have gone, in either order.
TEST(DeviceMemory, IsRegisteredAndReleasedInOrder) {
  const standin::Counts before = standin::counts();
  for (const bool group_first : {false, true}) {
    DeviceFixture fixture;
    const int n = fixture.group->size(), rank = fixture.group->rank();
    std::shared_ptr<void> memory = fixture.group->allocate(1000 * n * 4);
    if (n == 1) {
      EXPECT_EQ(memory, nullptr);
      continue;
    }
    EXPECT_EQ(standin::counts().registrations, before.registrations + 1);
    float* const data = static_cast<float*>(memory.get());
    fixture.stream.pause(milliseconds(5));
    fixture.stream.run([=] { std::fill_n(data + rank * 1000, 1000, static_cast<float>(rank)); });
    fixture.group->all_gather(data + rank * 1000, data, 1000, DataType::kFloat32).wait();
    // Still used by both streams: its release waits.
    fixture.stream.pause(milliseconds(5));
    float last = -1;
    fixture.stream.run([&last, data, n] { last = data[1000 * n - 1]; });
    if (group_first) fixture.group.reset();
    memory.reset();
    EXPECT_EQ(last, static_cast<float>(n - 1));
  }
  const standin::Counts after = standin::counts();
  EXPECT_EQ(after.registrations, before.registrations);
  EXPECT_EQ(after.communicators, before.communicators);
  EXPECT_EQ(after.allocations, before.allocations);
  EXPECT_EQ(after.streams, before.streams);
  EXPECT_EQ(after.events, before.events);
  EXPECT_EQ(after.aborted, before.aborted);
}

TEST(DeviceMemory, IsOrdinaryWhereNcclHasNone) {
  DeviceFixture fixture;
  standin::refuse_memory(true);
  EXPECT_EQ(fixture.group->allocate(64), nullptr);
  standin::refuse_memory(false);
}

}  // namespace
}  // namespace vax::dist
