#include "dist/comm/local_reduce.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace vax::dist {
namespace {

// Small enough that the running result stays in the first-level cache while the blocks stream by.
constexpr int64_t kTile = 2048;

template <typename T, typename Combine>
void reduce_tiles(std::span<const void* const> blocks, int64_t count, T* result, Combine combine) {
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t end = std::min(begin + kTile, count);
    const T* const first = static_cast<const T*>(blocks.front());
    std::copy(first + begin, first + end, result + begin);
    for (const void* const block : blocks.subspan(1)) {
      const T* const source = static_cast<const T*>(block);
      for (int64_t i = begin; i < end; ++i) result[i] = combine(result[i], source[i]);
    }
  }
}

template <typename T>
void reduce_typed(std::span<const void* const> blocks, int64_t count, ReduceOp op, void* result) {
  T* to = static_cast<T*>(result);
  switch (op) {
    case ReduceOp::kSum:
      return reduce_tiles(blocks, count, to, [](T a, T b) { return static_cast<T>(a + b); });
    case ReduceOp::kMax:
      return reduce_tiles(blocks, count, to, [](T a, T b) { return std::max(a, b); });
    case ReduceOp::kMin:
      return reduce_tiles(blocks, count, to, [](T a, T b) { return std::min(a, b); });
  }
}

}  // namespace

void reduce_blocks(std::span<const void* const> blocks, int64_t count, DataType type, ReduceOp op,
                   void* result) {
  switch (type) {
    case DataType::kFloat32:
      return reduce_typed<float>(blocks, count, op, result);
    case DataType::kFloat64:
      return reduce_typed<double>(blocks, count, op, result);
    case DataType::kInt32:
      return reduce_typed<int32_t>(blocks, count, op, result);
    case DataType::kInt64:
      return reduce_typed<int64_t>(blocks, count, op, result);
    case DataType::kUInt8:
      return reduce_typed<uint8_t>(blocks, count, op, result);
    case DataType::kBFloat16:
      break;
  }
  VAX_CHECK(false, "no reduction of ", name_of(type), " on the host");
}

void sum_blocks(std::span<const float* const> blocks, int64_t count, bool accumulate,
                float* result) {
  std::array<float, kTile> sum;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t length = std::min(kTile, count - begin);
    const float* const first = blocks.front() + begin;
    std::copy(first, first + length, sum.begin());
    for (const float* const block : blocks.subspan(1))
      for (int64_t i = 0; i < length; ++i) sum[i] += block[begin + i];
    float* const to = result + begin;
    if (accumulate)
      for (int64_t i = 0; i < length; ++i) to[i] += sum[i];
    else
      std::copy(sum.begin(), sum.begin() + length, to);
  }
}

}  // namespace vax::dist
