// The emulation itself: it runs every thread, passes values between them as a GPU does, and a
// kernel with a race does not get through all of its orders.
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "ops/device/launch.h"

namespace vax::ops::device {
namespace {

constexpr emulation::Order kOrders[] = {emulation::Order::kForward, emulation::Order::kBackward,
                                        emulation::Order::kRandom};

class EmulationTest : public testing::TestWithParam<emulation::Order> {
 protected:
  void SetUp() override { emulation::set_order(GetParam()); }
  void TearDown() override { emulation::set_order(emulation::Order::kForward); }
};
INSTANTIATE_TEST_SUITE_P(Orders, EmulationTest, testing::ValuesIn(kOrders));

__global__ void count_places(int* counts) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  ++counts[block * blockDim.x * blockDim.y * blockDim.z + thread];
}

TEST_P(EmulationTest, RunsEveryThreadOfEveryBlockOnce) {
  std::vector<int> counts(3 * 2 * 2 * 64 * 2, 0);
  launch(count_places, dim3(3, 2, 2), dim3(32, 2, 2), counts.data());
  EXPECT_EQ(counts, std::vector<int>(counts.size(), 1));
  launch(count_places, dim3(0, 2, 2), dim3(32, 2, 2), counts.data());
  EXPECT_EQ(counts, std::vector<int>(counts.size(), 1)) << "no blocks: nothing to do";
}

// Reverses blocks of 96 values through shared memory; without the barrier, if so asked.
template <bool kWithBarrier>
__global__ void reverse(float* values) {
  VAX_SHARED(float, held, [96]);
  float* mine = values + blockIdx.x * blockDim.x + threadIdx.x;
  held[threadIdx.x] = *mine;
  if (kWithBarrier) __syncthreads();
  *mine = held[blockDim.x - 1 - threadIdx.x];
}

std::vector<float> iota(size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i);
  return values;
}

TEST_P(EmulationTest, ABarrierOrdersSharedMemory) {
  std::vector<float> values = iota(3 * 96);
  launch(reverse<true>, dim3(3), dim3(96), values.data());
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(values[i], static_cast<float>(i / 96 * 96 + 95 - i % 96));
  }
}

TEST_P(EmulationTest, AMissingBarrierShowsInEveryBlock) {
  std::vector<float> values = iota(3 * 96);
  launch(reverse<false>, dim3(3), dim3(96), values.data());
  for (size_t block = 0; block < 3; ++block) {
    int num_unset = 0;
    for (size_t i = 0; i < 96; ++i) num_unset += std::isnan(values[block * 96 + i]) ? 1 : 0;
    EXPECT_GT(num_unset, 0) << "block " << block << " saw what an earlier block had left";
  }
}

// Turns the block's values by one; the second barrier keeps the next round's writes from the
// reads of this one.
template <bool kWithSecondBarrier>
__global__ void turn(float* values, int rounds) {
  VAX_SHARED(float, held, [64]);
  for (int i = 0; i < rounds; ++i) {
    held[threadIdx.x] = values[threadIdx.x];
    __syncthreads();
    values[threadIdx.x] = held[(threadIdx.x + 1) % 64];
    if (kWithSecondBarrier) __syncthreads();
  }
}

bool turns_right(void (*kernel)(float*, int)) {
  std::vector<float> values = iota(64);
  launch(kernel, dim3(1), dim3(64), values.data(), 5);
  for (size_t i = 0; i < 64; ++i) {
    if (values[i] != static_cast<float>((i + 5) % 64)) return false;
  }
  return true;
}

TEST_P(EmulationTest, MemoryThatIsReusedNeedsABarrierToo) {
  EXPECT_TRUE(turns_right(turn<true>));
  EXPECT_FALSE(turns_right(turn<false>));
}

__global__ void warp_functions(int* out) {
  const auto lane_id = static_cast<int>(threadIdx.x % 32);
  const int value = static_cast<int>(threadIdx.x);
  int* mine = out + threadIdx.x * 6;
  mine[0] = __shfl_sync(kFullWarp, value, 5);
  mine[1] = __shfl_xor_sync(kFullWarp, value, 3);
  mine[2] = __shfl_down_sync(kFullWarp, value, 4);
  mine[3] = __shfl_up_sync(kFullWarp, value, 4);
  mine[4] = static_cast<int>(__ballot_sync(kFullWarp, lane_id % 3 == 0));
  mine[5] = static_cast<int>(warp_sum(static_cast<double>(value)));
}

TEST_P(EmulationTest, WarpsExchangeValues) {
  std::vector<int> out(64 * 6);
  launch(warp_functions, dim3(1), dim3(64), out.data());
  unsigned thirds = 0;
  for (unsigned i = 0; i < 32; i += 3) thirds |= 1u << i;
  for (int t = 0; t < 64; ++t) {
    const int first = t / 32 * 32, lane_id = t % 32;
    const int* mine = out.data() + t * 6;
    EXPECT_EQ(mine[0], first + 5);
    EXPECT_EQ(mine[1], first + (lane_id ^ 3));
    EXPECT_EQ(mine[2], lane_id < 28 ? t + 4 : t);
    EXPECT_EQ(mine[3], lane_id < 4 ? t : t - 4);
    EXPECT_EQ(static_cast<unsigned>(mine[4]), thirds);
    EXPECT_EQ(mine[5], 32 * first + 31 * 16);
  }
}

__global__ void sums_of_blocks(float* out) {
  float sums[2] = {static_cast<float>(threadIdx.x), 1.0f};
  block_sums(sums);
  const float largest = block_max(-static_cast<float>(threadIdx.x) - 1);
  const float twos = block_sum(2.0f), again = block_sum(static_cast<float>(threadIdx.x));
  float* mine = out + threadIdx.x * 5;
  mine[0] = sums[0];
  mine[1] = sums[1];
  mine[2] = largest;
  mine[3] = twos;
  mine[4] = again;
}

TEST_P(EmulationTest, BlocksMakeSumsAndMaxima) {
  for (const unsigned threads : {32u, 96u, 1024u}) {
    std::vector<float> out(threads * 5);
    launch(sums_of_blocks, dim3(1), dim3(threads), out.data());
    for (unsigned t = 0; t < threads; ++t) {
      EXPECT_EQ(out[t * 5], static_cast<float>(threads * (threads - 1) / 2));
      EXPECT_EQ(out[t * 5 + 1], static_cast<float>(threads));
      EXPECT_EQ(out[t * 5 + 2], -1.0f);
      EXPECT_EQ(out[t * 5 + 3], static_cast<float>(2 * threads));
      EXPECT_EQ(out[t * 5 + 4], out[t * 5]) << "sums one after another";
    }
  }
}

__global__ void only_some_wait() {
  if (threadIdx.x != 40) __syncthreads();
}
__global__ void part_of_a_warp_exchanges() {
  if (threadIdx.x > 3) __shfl_xor_sync(kFullWarp, 1.0f, 1);
}

TEST_P(EmulationTest, WaitingForeverIsAnError) {
  EXPECT_THROW(launch(only_some_wait, dim3(2), dim3(64)), std::logic_error);
  EXPECT_THROW(launch(part_of_a_warp_exchanges, dim3(2), dim3(64)), std::logic_error);
  EXPECT_TRUE(turns_right(turn<true>)) << "and harms no later launch";
}

__global__ void read_vector(const float* from, float* to) {
  float values[4];
  load(from, values);
  if (threadIdx.x == 0) store(to, values);
  __syncthreads();
}

TEST_P(EmulationTest, VectorsBeginAtTheirMultiples) {
  alignas(16) float from[5] = {1, 2, 3, 4, 5};
  alignas(16) float to[4] = {};
  launch(read_vector, dim3(1), dim3(32), &from[0], &to[0]);
  EXPECT_EQ(to[3], 4);
  EXPECT_THROW(launch(read_vector, dim3(1), dim3(32), &from[1], &to[0]), std::logic_error);
}

// The store of four words, into shared memory first if so asked.
template <bool kThroughShared>
__global__ void copy_words(const float* from, float* to) {
  VAX_SHARED(float, held, [4]);
  float values[4];
  load(from, values);
  if (kThroughShared) store(held, values);
  store(to, values);
  __syncthreads();
}

TEST_P(EmulationTest, StoresOfVectorsAreForGlobalMemory) {
  alignas(16) float from[4] = {1, 2, 3, 4};
  alignas(16) float to[4] = {};
  launch(copy_words<false>, dim3(2), dim3(32), &from[0], &to[0]);
  EXPECT_EQ(to[3], 4);
  try {
    launch(copy_words<true>, dim3(2), dim3(32), &from[0], &to[0]);
    FAIL() << "shared memory was written";
  } catch (const std::logic_error& e) {
    EXPECT_NE(std::string(e.what()).find("is shared memory"), std::string::npos) << e.what();
  }
}

TEST(EmulationLimitsTest, SizesThatNoGpuTakesAreRefused) {
  int count = 0;
  EXPECT_THROW(launch(count_places, dim3(1, 65536), dim3(32), &count), std::logic_error);
  EXPECT_THROW(launch(count_places, dim3(1), dim3(2048), &count), std::logic_error);
  EXPECT_THROW(launch(count_places, dim3(1), dim3(33), &count), std::logic_error);
  EXPECT_EQ(count, 0);
}

}  // namespace
}  // namespace vax::ops::device
