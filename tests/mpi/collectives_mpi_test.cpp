// Every collective, with every type that it takes, for odd counts and chunk limits that cut both
// blocks and whole buffers. Values are small integers, so that sums are exact in every type and
// comparisons need no tolerance; bit-identity is tested with values that do round.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "base/philox.h"
#include "dist/comm/communicator.h"

namespace vax::dist {
namespace {

// bf16 as its 16 bits: collectives of the host move it and never compute with it.
struct BFloat16 {
  uint16_t bits = 0;
  bool operator==(const BFloat16&) const = default;
};

template <typename T>
constexpr DataType type_of();
template <>
constexpr DataType type_of<float>() {
  return DataType::kFloat32;
}
template <>
constexpr DataType type_of<double>() {
  return DataType::kFloat64;
}
template <>
constexpr DataType type_of<BFloat16>() {
  return DataType::kBFloat16;
}
template <>
constexpr DataType type_of<int32_t>() {
  return DataType::kInt32;
}
template <>
constexpr DataType type_of<int64_t>() {
  return DataType::kInt64;
}
template <>
constexpr DataType type_of<uint8_t>() {
  return DataType::kUInt8;
}

// Different for neighbours in rank and index; sums over five ranks stay below 256.
int small_number(int rank, int64_t i) { return static_cast<int>((rank * 17 + i * 7) % 43); }

template <typename T>
T value(int rank, int64_t i) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return {static_cast<uint16_t>(0x3f80 + small_number(rank, i))};
  else
    return static_cast<T>(small_number(rank, i));
}

template <typename T>
std::vector<T> values(int rank, int64_t count) {
  std::vector<T> result;
  for (int64_t i = 0; i < count; ++i) result.push_back(value<T>(rank, i));
  return result;
}

template <typename T>
T reduced(int num_ranks, int64_t i, ReduceOp op) {
  int result = small_number(0, i);
  for (int rank = 1; rank < num_ranks; ++rank) {
    const int other = small_number(rank, i);
    if (op == ReduceOp::kSum) result += other;
    if (op == ReduceOp::kMax) result = std::max(result, other);
    if (op == ReduceOp::kMin) result = std::min(result, other);
  }
  return static_cast<T>(result);
}

constexpr int64_t kCounts[] = {0, 1, 2, 13, 211};
// 1 and 3: less than one element per rank; 7: cuts unevenly; the last: nothing is cut.
constexpr int64_t kLimits[] = {1, 3, 7, 64, kMaxElementsPerCall};
constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin};

// Calls body(group, count) for every limit and count.
template <typename Body>
void for_all_sizes(Body body) {
  const Communicator world = Communicator::world();
  for (const int64_t limit : kLimits) {
    const std::unique_ptr<Collectives> group = world.make_collectives(limit);
    for (const int64_t count : kCounts) {
      SCOPED_TRACE("limit " + std::to_string(limit) + ", count " + std::to_string(count));
      body(*group, count);
    }
  }
}

template <typename T>
class Movement : public testing::Test {};
using AllTypes = testing::Types<float, double, BFloat16, int32_t, int64_t, uint8_t>;
TYPED_TEST_SUITE(Movement, AllTypes);

template <typename T>
std::vector<T> gathered_values(int num_ranks, int64_t count) {
  std::vector<T> all;
  for (int rank = 0; rank < num_ranks; ++rank)
    for (int64_t i = 0; i < count; ++i) all.push_back(value<T>(rank, i));
  return all;
}

TYPED_TEST(Movement, AllGather) {
  for_all_sizes([](Collectives& group, int64_t count) {
    const std::vector<TypeParam> send = values<TypeParam>(group.rank(), count);
    std::vector<TypeParam> recv(static_cast<size_t>(count * group.size()));
    group.all_gather(send.data(), recv.data(), count, type_of<TypeParam>()).wait();
    EXPECT_EQ(recv, gathered_values<TypeParam>(group.size(), count));
  });
}

TYPED_TEST(Movement, AllGatherInPlace) {
  for_all_sizes([](Collectives& group, int64_t count) {
    std::vector<TypeParam> data(static_cast<size_t>(count * group.size()));
    TypeParam* const own = data.data() + group.rank() * count;
    for (int64_t i = 0; i < count; ++i) own[i] = value<TypeParam>(group.rank(), i);
    group.all_gather(own, data.data(), count, type_of<TypeParam>()).wait();
    EXPECT_EQ(data, gathered_values<TypeParam>(group.size(), count));
  });
}

TYPED_TEST(Movement, BroadcastFromEveryRoot) {
  for_all_sizes([](Collectives& group, int64_t count) {
    for (int root = 0; root < group.size(); ++root) {
      std::vector<TypeParam> data = values<TypeParam>(group.rank(), count);
      group.broadcast(data.data(), count, type_of<TypeParam>(), root).wait();
      EXPECT_EQ(data, values<TypeParam>(root, count)) << "root " << root;
    }
  });
}

template <typename T>
class AllReduce : public testing::Test {};
using ReducedTypes = testing::Types<float, double, int32_t, int64_t, uint8_t>;
TYPED_TEST_SUITE(AllReduce, ReducedTypes);

TYPED_TEST(AllReduce, EqualsTheReductionOfAllRanks) {
  for_all_sizes([](Collectives& group, int64_t count) {
    for (const ReduceOp op : kOps) {
      std::vector<TypeParam> data = values<TypeParam>(group.rank(), count);
      group.all_reduce(data.data(), count, type_of<TypeParam>(), op).wait();
      for (int64_t i = 0; i < count; ++i)
        ASSERT_EQ(data[i], reduced<TypeParam>(group.size(), i, op)) << "element " << i;
    }
  });
}

template <typename T>
class ReduceScatter : public testing::Test {};
using FloatTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(ReduceScatter, FloatTypes);

TYPED_TEST(ReduceScatter, GivesEachRankItsPart) {
  for_all_sizes([](Collectives& group, int64_t count) {
    for (const ReduceOp op : kOps) {
      std::vector<TypeParam> send = values<TypeParam>(group.rank(), count * group.size());
      std::vector<TypeParam> recv(static_cast<size_t>(count));
      group.reduce_scatter(send.data(), recv.data(), count, type_of<TypeParam>(), op).wait();
      for (int64_t i = 0; i < count; ++i)
        ASSERT_EQ(recv[i], reduced<TypeParam>(group.size(), group.rank() * count + i, op))
            << "element " << i;
    }
  });
}

// Magnitudes over 12 decades: any other order of the additions gives other bits.
std::vector<float> rounding_values(int rank, int64_t count) {
  std::vector<float> result;
  const PhiloxKey key = philox_key(5, static_cast<uint64_t>(rank));
  for (int64_t i = 0; i < count; ++i) {
    const PhiloxCounter bits = philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, key);
    result.push_back(normal_pair(bits[0], bits[1])[0] *
                     std::exp2(static_cast<float>(bits[2] % 40) - 20));
  }
  return result;
}

// The count decides how it is done: gathered up to 64 KiB in all, by MPI_Iallreduce beyond.
TEST(AllReduceBits, AreTheSameOnEveryRank) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  for (const int64_t count : {1, 7, 1009, 30011, 300007}) {
    std::vector<float> data = rounding_values(group->rank(), count);
    group->all_reduce(data.data(), count, DataType::kFloat32, ReduceOp::kSum).wait();
    std::vector<float> all(static_cast<size_t>(count * group->size()));
    group->all_gather(data.data(), all.data(), count, DataType::kFloat32).wait();
    for (int rank = 0; rank < group->size(); ++rank)
      EXPECT_EQ(0, std::memcmp(all.data() + rank * count, data.data(), data.size() * sizeof(float)))
          << "rank " << rank << ", count " << count;
  }
}

TEST(ReduceScatterBits, AddInRankOrderWhateverTheChunks) {
  const Communicator world = Communicator::world();
  const int64_t count = 1009;
  for (const int64_t limit : kLimits) {
    const std::unique_ptr<Collectives> group = world.make_collectives(limit);
    const int64_t total = count * group->size();
    std::vector<float> send = rounding_values(group->rank(), total), recv(count);
    group->reduce_scatter(send.data(), recv.data(), count, DataType::kFloat32, ReduceOp::kSum)
        .wait();
    std::vector<float> expected = rounding_values(0, total);
    for (int rank = 1; rank < group->size(); ++rank) {
      const std::vector<float> other = rounding_values(rank, total);
      for (int64_t i = 0; i < total; ++i) expected[i] += other[i];
    }
    EXPECT_EQ(0, std::memcmp(recv.data(), expected.data() + group->rank() * count,
                             recv.size() * sizeof(float)))
        << "limit " << limit;
  }
}

// Started together, finished in the opposite order; one only through test().
TEST(WorkOrder, IsFree) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  std::vector<int32_t> a = values<int32_t>(group->rank(), 100), b = a;
  Work first = group->all_reduce(a.data(), 100, DataType::kInt32, ReduceOp::kSum);
  Work second = group->all_reduce(b.data(), 100, DataType::kInt32, ReduceOp::kMax);
  second.wait();
  EXPECT_FALSE(second.pending());
  while (!first.test()) continue;
  EXPECT_FALSE(first.pending());
  EXPECT_EQ(a[9], reduced<int32_t>(group->size(), 9, ReduceOp::kSum));
  EXPECT_EQ(b[9], reduced<int32_t>(group->size(), 9, ReduceOp::kMax));
}

TEST(WorkOrder, DestructorAndAssignmentWait) {
  std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  const int size = group->size();
  int32_t dropped = 1, replaced = 1, last = 1;
  { const Work work = group->all_reduce(&dropped, 1, DataType::kInt32, ReduceOp::kSum); }
  EXPECT_EQ(dropped, size);
  Work work = group->all_reduce(&replaced, 1, DataType::kInt32, ReduceOp::kSum);
  work = group->all_reduce(&last, 1, DataType::kInt32, ReduceOp::kSum);
  EXPECT_EQ(replaced, size);
  group.reset();  // a Work may outlive its group
  work.wait();
  EXPECT_EQ(last, size);
}

TEST(Statistics, CountCallsBytesAndBlockedTime) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  const int n = group->size();
  std::vector<float> whole(static_cast<size_t>(12 * n)), part(12);
  group->all_gather(part.data(), whole.data(), 12, DataType::kFloat32).wait();
  EXPECT_EQ(group->statistics().num_bytes, 12 * 4 * (n - 1));
  group->reduce_scatter(whole.data(), part.data(), 12, DataType::kFloat32, ReduceOp::kSum).wait();
  EXPECT_EQ(group->statistics().num_bytes, 2 * 12 * 4 * (n - 1));
  group->all_reduce(part.data(), 5, DataType::kFloat32, ReduceOp::kSum).wait();
  const int64_t before = 2 * 12 * 4 * (n - 1) + 2 * 5 * 4 * (n - 1) / n;
  EXPECT_EQ(group->statistics().num_bytes, before);
  group->broadcast(part.data(), 7, DataType::kBFloat16, n - 1).wait();
  EXPECT_EQ(group->statistics().num_bytes, before + (n == 1 ? 0 : 14));
  group->barrier();
  EXPECT_EQ(group->statistics().num_calls, 5);
  if (n > 1) {
    EXPECT_GT(group->statistics().blocked_s, 0);
  }
}

// The same on every rank and before anything is sent: nobody is left waiting.
TEST(Misuse, IsALogicError) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  std::vector<double> a(100), b(100);
  const DataType bf16 = DataType::kBFloat16, fp32 = DataType::kFloat32;
  EXPECT_THROW(group->all_gather(a.data(), b.data(), -1, fp32), std::logic_error);
  EXPECT_THROW(group->reduce_scatter(a.data(), b.data(), 1, bf16, ReduceOp::kSum),
               std::logic_error);
  EXPECT_THROW(group->reduce_scatter(a.data(), b.data(), 1, DataType::kInt32, ReduceOp::kSum),
               std::logic_error);
  EXPECT_THROW(group->all_reduce(a.data(), 1, bf16, ReduceOp::kSum), std::logic_error);
  EXPECT_THROW(group->broadcast(a.data(), 1, fp32, group->size()), std::logic_error);
  if (group->size() > 1) {
    EXPECT_THROW(Communicator::world().make_collectives(0), std::logic_error);
  }
}

}  // namespace
}  // namespace vax::dist
