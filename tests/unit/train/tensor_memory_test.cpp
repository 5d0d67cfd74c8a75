// The count of what host tensors hold. A program of its own: counting begins once in a process.
#include "train/tensor_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace vax::train {
namespace {

// What the allocator rounds a block up to, and a tensor's alignment.
constexpr int64_t kSlack = 256;

class TensorMemoryTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    at::Tensor early = at::ones({1000});
    EXPECT_EQ(tensor_bytes(), 0);
    EXPECT_EQ(tensor_peak_bytes(), 0);
    count_tensor_memory();
    early.reset();  // what was not counted when it was made is not when it goes
    EXPECT_EQ(tensor_bytes(), 0);
  }
  void SetUp() override {
    before_ = tensor_bytes();
    reset_tensor_peak();
  }

  int64_t held() const { return tensor_bytes() - before_; }
  int64_t peak() const { return tensor_peak_bytes() - before_; }

  int64_t before_ = 0;
};

void expect_about(int64_t counted, int64_t num_bytes) {
  EXPECT_GE(counted, num_bytes);
  EXPECT_LE(counted, num_bytes + kSlack);
}

TEST_F(TensorMemoryTest, CountsWhatTensorsHold) {
  at::Tensor floats = at::empty({1000}, at::kFloat);
  expect_about(held(), 4000);
  const at::Tensor view = floats.view({10, 100}).t();
  std::vector<float> foreign(500);
  const at::Tensor borrowed = at::from_blob(foreign.data(), {500}, at::kFloat);
  expect_about(held(), 4000);
  at::Tensor words = at::zeros({3000}, at::kBFloat16);
  expect_about(held(), 4000 + 6000);
  floats.reset();  // the view still holds it
  expect_about(held(), 4000 + 6000);
  words.reset();
  expect_about(held(), 4000);
}

TEST_F(TensorMemoryTest, GivesBackWhatItCounted) {
  for (const int64_t count : {0, 1, 17, 100'000, 10'000'000}) {
    at::Tensor tensor = at::ones({count});
    tensor = tensor + 1;
    tensor.resize_({2 * count});
  }
  EXPECT_EQ(held(), 0);
}

TEST_F(TensorMemoryTest, ThePeakStaysUntilItIsReset) {
  at::Tensor small = at::empty({1000}, at::kByte);
  { const at::Tensor large = at::empty({50'000}, at::kByte); }
  expect_about(held(), 1000);
  expect_about(peak(), 51'000);
  { const at::Tensor medium = at::empty({20'000}, at::kByte); }
  expect_about(peak(), 51'000);
  reset_tensor_peak();
  EXPECT_EQ(tensor_peak_bytes(), tensor_bytes());
  { const at::Tensor medium = at::empty({20'000}, at::kByte); }
  expect_about(peak(), 21'000);
}

TEST_F(TensorMemoryTest, ThreadsMayAllocateAtAnyTime) {
  constexpr int kThreads = 4, kRounds = 2000;
  constexpr int64_t kBytes = 4096;
  std::vector<at::Tensor> kept(kThreads);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&kept, i] {
      for (int round = 0; round < kRounds; ++round)
        kept[static_cast<size_t>(i)] = at::empty({kBytes}, at::kByte);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(held(), kThreads * kBytes);
  EXPECT_LE(held(), kThreads * (kBytes + kSlack));
  EXPECT_GE(peak(), held());
  EXPECT_LE(peak(), 2 * kThreads * (kBytes + kSlack));  // a new one before the old one goes
  // Freed by another thread than made it.
  kept.clear();
  EXPECT_EQ(held(), 0);
}

}  // namespace
}  // namespace vax::train
