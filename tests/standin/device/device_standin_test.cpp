// The stand-in's device itself: it refuses what a device refuses, and graphs do again what was
// recorded, on the same memory.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <stdexcept>

#include "memory.h"
#include "ops/device/launch.h"
#include "ops/device/runtime.h"
#include "ops/device/transfer.h"
#include "stream.h"
#include "torch_device.h"

namespace vax::ops::device {
namespace {

at::TensorOptions on_device(at::ScalarType type = at::kFloat) {
  return at::TensorOptions(type).device(current());
}

at::Tensor device_tensor(at::ArrayRef<float> values) { return at::tensor(values).to(current()); }

bool is_equal(const at::Tensor& device, at::ArrayRef<float> values) {
  return at::equal(device.cpu(), at::tensor(values));
}

struct Doubled {
  int64_t count;
  const float* from;
  float* to;
};
__global__ void double_all(Doubled args) {
  if (threadIdx.x < args.count) args.to[threadIdx.x] = 2 * args.from[threadIdx.x];
}

class StandInDevice : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { select(0); }
};
using StandInDeviceDeathTest = StandInDevice;

TEST_F(StandInDevice, ComputesWithLibTorchsOperators) {
  const at::Tensor x = device_tensor({1, 2, 3, 4}).view({2, 2});
  EXPECT_TRUE(takes(x));
  EXPECT_FALSE(takes(x.cpu()));
  EXPECT_TRUE(is_equal(at::mm(x, x).flatten(), {7, 10, 15, 22}));
  at::Tensor out = at::empty({0}, on_device());
  at::add_out(out, x, x.t());
  EXPECT_TRUE(is_equal(out.flatten(), {2, 5, 5, 8}));
  x.select(1, 1).mul_(10);  // a view
  EXPECT_TRUE(is_equal(x.flatten(), {1, 20, 3, 40}));
  EXPECT_EQ(x.sum().item<float>(), 64);
  EXPECT_EQ(x.to(at::kBFloat16).to(at::kDouble).device(), current());
}

TEST_F(StandInDevice, NewMemoryIsNaNAndCounted) {
  reset_peak_bytes();
  const int64_t before = held_bytes();
  {
    const at::Tensor x = at::empty({1000}, on_device());
    EXPECT_TRUE(at::isnan(x).all().item<bool>());
    EXPECT_EQ(held_bytes(), before + 4000);
  }
  EXPECT_EQ(held_bytes(), before);
  EXPECT_GE(peak_bytes(), before + 4000);
}

TEST_F(StandInDevice, RefusesOperandsOnTwoDevices) {
  const at::Tensor x = device_tensor({1, 2}), host = at::ones({2});
  EXPECT_THROW(at::add(x, host), c10::Error);
  EXPECT_THROW(x.mul_(host), c10::Error);
  EXPECT_THROW(at::cat({x, host}), c10::Error);
  EXPECT_TRUE(is_equal(x * at::full({}, 3.0), {3, 6})) << "a number may come from the host";
}

TEST_F(StandInDevice, KernelsTakeDeviceMemoryOnly) {
  const at::Tensor x = device_tensor({1, 2, 3}), y = at::empty_like(x);
  const auto launch_with = [](const float* from, float* to) {
    launch(double_all, dim3(1), dim3(32), Doubled{.count = 3, .from = from, .to = to});
  };
  launch_with(x.const_data_ptr<float>(), y.mutable_data_ptr<float>());
  EXPECT_TRUE(is_equal(y, {2, 4, 6}));
  const at::Tensor host = at::ones({3});
  EXPECT_THROW(launch_with(host.const_data_ptr<float>(), y.mutable_data_ptr<float>()),
               std::logic_error);
}

TEST_F(StandInDevice, CopiesFromPinnedMemoryAreLate) {
  const at::Tensor host = pinned_empty({2}, at::kFloat), x = at::empty({2}, on_device());
  host.fill_(1);
  x.copy_(host, /*non_blocking=*/true);
  host.fill_(2);  // too early
  EXPECT_TRUE(is_equal(x, {2, 2}));
  const at::Tensor ordinary = at::ones({2});
  x.copy_(ordinary, /*non_blocking=*/true);
  ordinary.fill_(2);  // such copies are made at once
  EXPECT_TRUE(is_equal(x, {1, 1}));
}

TEST_F(StandInDevice, GraphsRecordAndReplay) {
  const at::Tensor x = device_tensor({1, 2, 3}), sum = device_tensor({0, 0, 0});
  at::Tensor kept;
  const auto graph = capture([&] {
    const at::Tensor doubled = at::empty_like(x);
    launch(double_all, dim3(1), dim3(32),
           Doubled{.count = 3,
                   .from = x.const_data_ptr<float>(),
                   .to = doubled.mutable_data_ptr<float>()});
    kept = doubled + 1;  // a new tensor
    sum.add_(kept);
  });
  EXPECT_TRUE(is_equal(sum, {0, 0, 0})) << "a capture computes nothing";
  graph->replay();
  EXPECT_TRUE(is_equal(sum, {3, 5, 7}));
  x.copy_(device_tensor({0, 0, 5}));
  graph->replay();
  EXPECT_TRUE(is_equal(sum, {4, 6, 18}));
  EXPECT_TRUE(is_equal(kept, {1, 1, 11}));
}

TEST_F(StandInDevice, NothingInACaptureWaitsForTheDevice) {
  const at::Tensor x = device_tensor({1, 2}), host = at::ones({2});
  const std::function<void()> breaking[] = {
      [&] { x.sum().item<float>(); },
      [&] { x.cpu(); },
      [&] { x.copy_(host); },
      [&] { at::equal(x, x); },
  };
  for (const auto& work : breaking) EXPECT_THROW(capture(work), std::logic_error);
  const at::Tensor pinned = pinned_empty({2}, at::kFloat);
  EXPECT_NO_THROW(capture([&] { x.copy_(pinned, /*non_blocking=*/true); }));
}

// The last of these tests: what it demands holds for the rest of the process.
TEST_F(StandInDevice, ReadsGoThroughTheWaiterWhereRanksCommunicate) {
  int num_waits = 0;
  set_waiter([&] {
    ++num_waits;
    standin::wait("the waiter");
  });
  const at::Tensor x = device_tensor({1, 2}), host = at::ones({2});
  EXPECT_EQ(to_number(x.sum()), 3);
  EXPECT_TRUE(at::equal(to_host(x), at::tensor({1.0f, 2.0f})));
  EXPECT_EQ(num_waits, 2);
  EXPECT_TRUE(to_host(host).is_same(host));
  const at::Tensor y = to_device(host, current());
  EXPECT_EQ(num_waits, 2) << "nothing to wait for";
  standin::demand_watched_waits();
  EXPECT_THROW((x + y).sum().item<float>(), std::logic_error);
  EXPECT_EQ(to_number((x + y).sum()), 5);
  set_waiter(nullptr);
}

TEST_F(StandInDeviceDeathTest, HostCodeMustNotTouchDeviceMemory) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const at::Tensor x = device_tensor({1, 2});
  volatile float* const data = x.mutable_data_ptr<float>();
  EXPECT_DEATH(static_cast<void>(data[0]), "code of the host touches device memory");
  EXPECT_DEATH(data[1] = 0, "code of the host touches device memory");
}

TEST_F(StandInDeviceDeathTest, NothingIsWrittenBehindTheEnd) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto write_behind = [] {
    const at::Tensor x = at::zeros({3}, on_device());
    const standin::DeviceCode device;
    x.mutable_data_ptr<float>()[3] = 0;
  };
  EXPECT_DEATH(write_behind(), "written behind the end");
}

}  // namespace
}  // namespace vax::ops::device
