// Collectives of device memory over the stand-in of NCCL and through staging buffers: every
// operation with every type that it takes, on a compute stream that runs beside the host. Operands
// are made by the stream some time after the operation was called, and the host never waits for it
// before it reads results, so that an order that is not kept by events shows. Values are small
// integers: sums are exact in every type.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "support/device_fixture.h"

namespace vax::dist {
namespace {

using vax::testing::BFloat16;
using vax::testing::DeviceFixture;
using vax::testing::gathered;
using vax::testing::kType;
using vax::testing::reduced;
using vax::testing::values;

constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin};
// The last is longer than what the stand-in moves in one round.
constexpr int64_t kCounts[] = {0, 1, 13, 211, 40007};
// Staging buffers of a few elements up to more than everything.
constexpr int64_t kStagingBytes[] = {40, 600, 1 << 20};

// Calls body(fixture, count) for both kinds of group and all sizes.
template <typename Body>
void for_all_sizes(Body body) {
  std::vector<DeviceGroupOptions> all = {{.transport = Transport::kAuto}};
  for (const int64_t bytes : kStagingBytes) all.push_back({Transport::kStaged, bytes});
  for (const DeviceGroupOptions& options : all) {
    DeviceFixture fixture(options);
    for (const int64_t count : kCounts) {
      const bool many_pieces = fixture.group->name() == "staged" && options.staging_bytes < 1000;
      if (many_pieces && count > 1000) continue;  // a thousand pieces and more
      SCOPED_TRACE(
          cat(fixture.group->name(), ", staging ", options.staging_bytes, ", count ", count));
      body(fixture, count);
    }
  }
}

template <typename T>
class DeviceMovement : public ::testing::Test {};
using AllTypes = ::testing::Types<float, double, BFloat16, int32_t, int64_t, uint8_t>;
TYPED_TEST_SUITE(DeviceMovement, AllTypes);

TYPED_TEST(DeviceMovement, AllGather) {
  for_all_sizes([](DeviceFixture& fixture, int64_t count) {
    const int n = fixture.group->size();
    const auto send = fixture.late(values<TypeParam>(fixture.group->rank(), count));
    const auto recv = fixture.late(std::vector<TypeParam>(static_cast<size_t>(count * n)));
    fixture.group->all_gather(send.data(), recv.data(), count, kType<TypeParam>).wait();
    EXPECT_EQ(recv.values(), gathered<TypeParam>(n, count));
  });
}

TYPED_TEST(DeviceMovement, AllGatherInPlace) {
  for_all_sizes([](DeviceFixture& fixture, int64_t count) {
    const int n = fixture.group->size(), rank = fixture.group->rank();
    std::vector<TypeParam> before(static_cast<size_t>(count * n));
    std::ranges::copy(values<TypeParam>(rank, count), before.begin() + rank * count);
    const auto data = fixture.late(before);
    fixture.group->all_gather(data.data() + rank * count, data.data(), count, kType<TypeParam>)
        .wait();
    EXPECT_EQ(data.values(), gathered<TypeParam>(n, count));
  });
}

TYPED_TEST(DeviceMovement, BroadcastFromEveryRoot) {
  for_all_sizes([](DeviceFixture& fixture, int64_t count) {
    for (int root = 0; root < fixture.group->size(); ++root) {
      const auto data = fixture.late(values<TypeParam>(fixture.group->rank(), count));
      fixture.group->broadcast(data.data(), count, kType<TypeParam>, root).wait();
      EXPECT_EQ(data.values(), values<TypeParam>(root, count)) << "root " << root;
    }
  });
}

// bf16 is reduced by NCCL only.
bool reduces(const Collectives& group, DataType type) {
  return type != DataType::kBFloat16 || group.name() != "staged";
}

template <typename T>
class DeviceReduction : public ::testing::Test {};
TYPED_TEST_SUITE(DeviceReduction, AllTypes);

TYPED_TEST(DeviceReduction, AllReduce) {
  for_all_sizes([](DeviceFixture& fixture, int64_t count) {
    if (!reduces(*fixture.group, kType<TypeParam>)) return;
    for (const ReduceOp op : kOps) {
      const auto data = fixture.late(values<TypeParam>(fixture.group->rank(), count));
      fixture.group->all_reduce(data.data(), count, kType<TypeParam>, op).wait();
      EXPECT_EQ(data.values(), reduced<TypeParam>(fixture.group->size(), 0, count, op));
    }
  });
}

TYPED_TEST(DeviceReduction, ReduceScatter) {
  for_all_sizes([](DeviceFixture& fixture, int64_t count) {
    const DataType type = kType<TypeParam>;
    const bool is_float = type == DataType::kFloat32 || type == DataType::kFloat64;
    if (!is_float && fixture.group->name() == "staged") return;
    const int n = fixture.group->size(), rank = fixture.group->rank();
    for (const ReduceOp op : kOps) {
      const auto send = fixture.late(values<TypeParam>(rank, count * n));
      const auto recv = fixture.late(std::vector<TypeParam>(static_cast<size_t>(count)));
      fixture.group->reduce_scatter(send.data(), recv.data(), count, type, op).wait();
      EXPECT_EQ(recv.values(), reduced<TypeParam>(n, rank * count, count, op));
    }
  });
}

}  // namespace
}  // namespace vax::dist
