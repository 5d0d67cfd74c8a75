// NCCL's collectives on one device with one rank: the calls, the streams, the life of the
// communicator. Skips where there is no device; it is compiled and linked wherever NCCL is.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <vector>

#include "dist/communicator.h"
#include "dist/nccl_collectives.h"

namespace vax::dist {
namespace {

// Device memory of floats. Move-free on purpose: it lives in one test.
class DeviceFloats {
 public:
  explicit DeviceFloats(const std::vector<float>& values) : count_(values.size()) {
    EXPECT_EQ(cudaMalloc(&data_, bytes()), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice), cudaSuccess);
  }
  DeviceFloats(const DeviceFloats&) = delete;
  DeviceFloats& operator=(const DeviceFloats&) = delete;
  ~DeviceFloats() { cudaFree(data_); }

  void* data() { return data_; }
  std::vector<float> host() const {
    std::vector<float> values(count_);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  size_t bytes() const { return count_ * sizeof(float); }
  size_t count_;
  void* data_ = nullptr;
};

class NcclCollectives : public ::testing::Test {
 protected:
  void SetUp() override {
    int num_devices = 0;
    if (cudaGetDeviceCount(&num_devices) != cudaSuccess || num_devices == 0)
      GTEST_SKIP() << "no CUDA device";
    group_ = make_nccl_collectives(Communicator::world(), 0);
  }
  std::unique_ptr<Collectives> group_;
  const std::vector<float> values_ = {1, 2, 3, 4, 5};
};

TEST_F(NcclCollectives, AllGatherCopies) {
  DeviceFloats send(values_), recv(std::vector<float>(5, 0));
  group_->all_gather(send.data(), recv.data(), 5, DataType::kFloat32).wait();
  EXPECT_EQ(recv.host(), values_);
}

TEST_F(NcclCollectives, ReduceScatterAndAllReduceOfOneRankAreTheInput) {
  DeviceFloats send(values_), recv(std::vector<float>(5, 0));
  group_->reduce_scatter(send.data(), recv.data(), 5, DataType::kFloat32, ReduceOp::kSum).wait();
  EXPECT_EQ(recv.host(), values_);
  group_->all_reduce(recv.data(), 5, DataType::kFloat32, ReduceOp::kSum).wait();
  EXPECT_EQ(recv.host(), values_);
}

TEST_F(NcclCollectives, BroadcastAndBarrier) {
  DeviceFloats data(values_);
  group_->broadcast(data.data(), 5, DataType::kFloat32, 0).wait();
  group_->barrier();
  EXPECT_EQ(data.host(), values_);
  EXPECT_EQ(group_->name(), "nccl");
}

}  // namespace
}  // namespace vax::dist
