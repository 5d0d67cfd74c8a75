// What the stand-in is for: streams that run beside the host, communicators that are not ready at
// once, and misuse that does not go unnoticed.
#include "standin.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace {

using std::chrono::milliseconds;

void sleep_a_while(void*) { std::this_thread::sleep_for(milliseconds(30)); }
void raise(void* flag) { *static_cast<std::atomic<bool>*>(flag) = true; }

cudaStream_t make_stream() {
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  return stream;
}

ncclResult_t state_of(ncclComm_t comm) {
  ncclResult_t state = ncclSuccess;
  ncclCommGetAsyncError(comm, &state);
  return state;
}

void wait_until_ready(ncclComm_t comm) {
  while (state_of(comm) == ncclInProgress) std::this_thread::sleep_for(milliseconds(1));
}

ncclComm_t make_communicator() {
  ncclUniqueId id;
  EXPECT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t comm = nullptr;
  EXPECT_EQ(ncclCommInitRankConfig(&comm, 1, id, 0, &config), ncclInProgress);
  return comm;
}

void destroy(ncclComm_t comm) {
  ncclCommFinalize(comm);
  wait_until_ready(comm);
  ncclCommDestroy(comm);
}

TEST(StandInStream, RunsBesideTheHostAndEventsOrderIt) {
  const cudaStream_t one = make_stream(), two = make_stream();
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  std::atomic<bool> reached = false, passed = false;
  cudaLaunchHostFunc(one, &sleep_a_while, nullptr);
  cudaLaunchHostFunc(one, &raise, &reached);
  cudaEventRecord(event, one);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  cudaStreamWaitEvent(two, event, 0);
  cudaLaunchHostFunc(two, &raise, &passed);
  EXPECT_FALSE(reached || passed);
  cudaStreamSynchronize(two);
  EXPECT_TRUE(reached && passed);
  // The legacy default stream is the host.
  cudaLaunchHostFunc(one, &sleep_a_while, nullptr);
  cudaEventRecord(event, one);
  cudaStreamWaitEvent(nullptr, event, 0);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  cudaEventDestroy(event);
  cudaStreamDestroy(one);
  cudaStreamDestroy(two);
}

TEST(StandInNccl, IsNotReadyAtOnce) {
  const ncclComm_t comm = make_communicator();
  EXPECT_EQ(state_of(comm), ncclInProgress);
  wait_until_ready(comm);
  EXPECT_EQ(state_of(comm), ncclSuccess);
  void* data = nullptr;
  ncclMemAlloc(&data, 8);
  const cudaStream_t stream = make_stream();
  // The first one connects: it is on its stream later than the call.
  EXPECT_EQ(ncclAllReduce(data, data, 1, ncclInt64, ncclSum, comm, stream), ncclInProgress);
  wait_until_ready(comm);
  EXPECT_EQ(ncclAllReduce(data, data, 1, ncclInt64, ncclSum, comm, stream), ncclSuccess);
  cudaStreamSynchronize(stream);
  destroy(comm);
  ncclMemFree(data);
  cudaStreamDestroy(stream);
}

TEST(StandInNccl, FailsLaterAndKeepsItsStreamUntilTheAbort) {
  const ncclComm_t comm = make_communicator();
  wait_until_ready(comm);
  const cudaStream_t stream = make_stream();
  std::atomic<bool> passed = false;
  standin::fail_operation(1, ncclRemoteError);
  EXPECT_EQ(ncclAllReduce(nullptr, nullptr, 0, ncclInt64, ncclSum, comm, stream), ncclInProgress);
  cudaLaunchHostFunc(stream, &raise, &passed);
  while (state_of(comm) != ncclRemoteError) std::this_thread::sleep_for(milliseconds(1));
  const int64_t before = standin::counts().aborted;
  ncclCommAbort(comm);
  EXPECT_EQ(standin::counts().aborted, before + 1);
  cudaStreamSynchronize(stream);
  EXPECT_TRUE(passed);
  cudaStreamDestroy(stream);
}

class StandInDeathTest : public ::testing::Test {
 protected:
  void SetUp() override { ::testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

TEST_F(StandInDeathTest, EndsTheProcessOnMisuse) {
  const auto free_registered = [] {
    const ncclComm_t comm = make_communicator();
    wait_until_ready(comm);
    void *data = nullptr, *handle = nullptr;
    ncclMemAlloc(&data, 64);
    ncclCommRegister(comm, data, 64, &handle);
    ncclMemFree(data);
  };
  EXPECT_DEATH(free_registered(), "freed that is registered");
  const auto destroy_registered = [] {
    const ncclComm_t comm = make_communicator();
    wait_until_ready(comm);
    void *data = nullptr, *handle = nullptr;
    ncclMemAlloc(&data, 64);
    ncclCommRegister(comm, data, 64, &handle);
    destroy(comm);
  };
  EXPECT_DEATH(destroy_registered(), "destroyed while memory is registered");
  const auto use_aborted = [] {
    const ncclComm_t comm = make_communicator();
    ncclCommAbort(comm);
    state_of(comm);
  };
  EXPECT_DEATH(use_aborted(), "used that does not live");
  const auto use_freed = [] {
    void* data = nullptr;
    cudaMalloc(&data, 64);
    cudaFree(data);
    static_cast<volatile char*>(data)[0] = 1;
  };
  EXPECT_DEATH(use_freed(), "");
  const auto copy_unpinned = [] {
    void* data = nullptr;
    cudaMalloc(&data, 64);
    char host[64] = {};
    cudaMemcpyAsync(data, host, 64, cudaMemcpyHostToDevice, nullptr);
  };
  EXPECT_DEATH(copy_unpinned(), "not pinned");
}

}  // namespace
