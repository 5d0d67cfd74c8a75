// Device groups on a device: the real streams, events and NCCL. One process, so that it runs with
// one device: NCCL with a group of one rank, and the copies of a group that needs no NCCL. Skips
// where there is no device; it is compiled and linked wherever NCCL is.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/device/device_group.h"
#include "dist/device/nccl_backend.h"
#include "dist/device/nccl_communicator.h"
#include "support/device_array.h"

namespace vax::dist {
namespace {

using std::chrono::milliseconds;
using vax::testing::ComputeStream;
using vax::testing::DeviceArray;

using MakeGroup = std::unique_ptr<Collectives> (*)(const Communicator&, const DeviceContext&);

std::unique_ptr<Collectives> make_nccl(const Communicator& world, const DeviceContext& device) {
  return std::make_unique<Collectives>(make_nccl_backend(world, device), nullptr);
}
std::unique_ptr<Collectives> make_self(const Communicator& world, const DeviceContext& device) {
  return make_device_collectives(world, device, "tested");
}

class DeviceGroup : public ::testing::TestWithParam<MakeGroup> {
 protected:
  void SetUp() override {
    int num_devices = 0;
    if (cudaGetDeviceCount(&num_devices) != cudaSuccess || num_devices == 0)
      GTEST_SKIP() << "no CUDA device";
    stream_ = std::make_unique<ComputeStream>();
    group_ = GetParam()(world_, stream_->context());
  }
  // Made by the stream some time after this call.
  DeviceArray<float> late(const std::vector<float>& values) {
    stream_->pause(milliseconds(5));
    return DeviceArray<float>(*stream_, values);
  }

  const Communicator world_ = Communicator::world();
  std::unique_ptr<ComputeStream> stream_;
  std::unique_ptr<Collectives> group_;
  const std::vector<float> values_ = {1, 2, 3, 4, 5};
  const std::vector<float> zeros_ = {0, 0, 0, 0, 0};
};
INSTANTIATE_TEST_SUITE_P(, DeviceGroup, ::testing::Values(&make_nccl, &make_self),
                         [](const auto& maker) {
                           return maker.param == &make_nccl ? std::string("Nccl")
                                                            : std::string("Self");
                         });

TEST_P(DeviceGroup, AllGatherCopies) {
  const auto send = late(values_), recv = late(zeros_);
  group_->all_gather(send.data(), recv.data(), 5, DataType::kFloat32).wait();
  EXPECT_EQ(recv.values(), values_);
}

TEST_P(DeviceGroup, ReductionsOfOneRankAreTheInput) {
  const auto send = late(values_), recv = late(zeros_);
  group_->reduce_scatter(send.data(), recv.data(), 5, DataType::kFloat32, ReduceOp::kSum).wait();
  group_->all_reduce(recv.data(), 5, DataType::kFloat32, ReduceOp::kSum).wait();
  EXPECT_EQ(recv.values(), values_);
}

TEST_P(DeviceGroup, BroadcastBarrierAndSynchronize) {
  const auto data = late(values_);
  group_->broadcast(data.data(), 5, DataType::kFloat32, 0).wait();
  group_->barrier();
  synchronize(world_, stream_->context());
  EXPECT_EQ(data.values(), values_);
}

TEST_P(DeviceGroup, TestTellsTheEnd) {
  const auto send = late(values_), recv = late(zeros_);
  Work work = group_->all_gather(send.data(), recv.data(), 5, DataType::kFloat32);
  while (!work.test()) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_FALSE(work.pending());
  EXPECT_EQ(recv.values(), values_);
}

// Memory of the group, given back while both streams still use it.
TEST_P(DeviceGroup, OwnMemoryServesAndOutlivesTheGroup) {
  std::shared_ptr<void> memory = group_->allocate(5 * sizeof(float));
  if (!memory) memory = vax::testing::device_memory(5 * sizeof(float));
  const auto send = late(values_), recv = late(zeros_);
  group_->all_gather(send.data(), memory.get(), 5, DataType::kFloat32).wait();
  ASSERT_EQ(cudaMemcpyAsync(recv.data(), memory.get(), 5 * sizeof(float), cudaMemcpyDeviceToDevice,
                            stream_->get()),
            cudaSuccess);
  group_.reset();
  memory.reset();
  EXPECT_EQ(recv.values(), values_);
}

// Without a device, too.
TEST(NcclLibrary, IsOneAndNewEnough) { EXPECT_NO_THROW(check_nccl_library()); }

}  // namespace
}  // namespace vax::dist
