// What tests of device groups have in common: values of every type, what collectives make of them,
// and a group with its compute stream.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/device/device_group.h"
#include "support/device_array.h"

namespace vax::testing {

using dist::Collectives;
using dist::Communicator;
using dist::DataType;
using dist::DeviceGroupOptions;
using dist::ReduceOp;

// bf16 as its bits; integers up to 256 are exact.
struct BFloat16 {
  uint16_t bits = 0;
  bool operator==(const BFloat16&) const = default;
};

template <typename T>
constexpr DataType kType = DataType::kUInt8;
template <>
constexpr DataType kType<float> = DataType::kFloat32;
template <>
constexpr DataType kType<double> = DataType::kFloat64;
template <>
constexpr DataType kType<BFloat16> = DataType::kBFloat16;
template <>
constexpr DataType kType<int32_t> = DataType::kInt32;
template <>
constexpr DataType kType<int64_t> = DataType::kInt64;

template <typename T>
T number(int value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const float wide = static_cast<float>(value);
    uint32_t bits = 0;
    std::memcpy(&bits, &wide, sizeof(bits));
    return {static_cast<uint16_t>(bits >> 16)};
  } else {
    return static_cast<T>(value);
  }
}

// Different for neighbours in rank and index; sums over four ranks stay below 256.
inline int small_number(int rank, int64_t i) { return static_cast<int>((rank * 17 + i * 7) % 43); }

template <typename T>
std::vector<T> values(int rank, int64_t count) {
  std::vector<T> result;
  for (int64_t i = 0; i < count; ++i) result.push_back(number<T>(small_number(rank, i)));
  return result;
}

template <typename T>
std::vector<T> reduced(int num_ranks, int64_t begin, int64_t count, ReduceOp op) {
  std::vector<T> result;
  for (int64_t i = begin; i < begin + count; ++i) {
    int value = small_number(0, i);
    for (int rank = 1; rank < num_ranks; ++rank) {
      const int other = small_number(rank, i);
      value = op == ReduceOp::kSum   ? value + other
              : op == ReduceOp::kMax ? std::max(value, other)
                                     : std::min(value, other);
    }
    result.push_back(number<T>(value));
  }
  return result;
}

template <typename T>
std::vector<T> gathered(int num_ranks, int64_t count) {
  std::vector<T> all;
  for (int rank = 0; rank < num_ranks; ++rank)
    for (int64_t i = 0; i < count; ++i) all.push_back(number<T>(small_number(rank, i)));
  return all;
}

// A group of all ranks, made and used as training does.
struct DeviceFixture {
  explicit DeviceFixture(const DeviceGroupOptions& options = {})
      : group(dist::make_device_collectives(world, stream.context(), "tested", options)) {}
  // An array whose values the stream makes late.
  template <typename T>
  DeviceArray<T> late(const std::vector<T>& values) {
    stream.pause(std::chrono::milliseconds(1));
    return DeviceArray<T>(stream, values);
  }

  Communicator world = Communicator::world();
  ComputeStream stream;
  std::unique_ptr<Collectives> group;
};

}  // namespace vax::testing
