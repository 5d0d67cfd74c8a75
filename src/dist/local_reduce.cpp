#include "dist/local_reduce.h"

#include <algorithm>

#include "base/error.h"

namespace vax::dist {
namespace {

// Small enough that the running result stays in the first-level cache while the blocks stream by.
constexpr int64_t kTile = 2048;

template <typename T, typename Combine>
void reduce_tiles(const T* blocks, int num_blocks, int64_t count, T* result, Combine combine) {
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t end = std::min(begin + kTile, count);
    std::copy(blocks + begin, blocks + end, result + begin);
    for (int block = 1; block < num_blocks; ++block) {
      const T* source = blocks + block * count;
      for (int64_t i = begin; i < end; ++i) result[i] = combine(result[i], source[i]);
    }
  }
}

template <typename T>
void reduce_typed(const void* blocks, int num_blocks, int64_t count, ReduceOp op, void* result) {
  const T* from = static_cast<const T*>(blocks);
  T* to = static_cast<T*>(result);
  switch (op) {
    case ReduceOp::kSum:
      return reduce_tiles(from, num_blocks, count, to,
                          [](T a, T b) { return static_cast<T>(a + b); });
    case ReduceOp::kMax:
      return reduce_tiles(from, num_blocks, count, to, [](T a, T b) { return std::max(a, b); });
    case ReduceOp::kMin:
      return reduce_tiles(from, num_blocks, count, to, [](T a, T b) { return std::min(a, b); });
  }
}

}  // namespace

void reduce_blocks(const void* blocks, int num_blocks, int64_t count, DataType type, ReduceOp op,
                   void* result) {
  switch (type) {
    case DataType::kFloat32:
      return reduce_typed<float>(blocks, num_blocks, count, op, result);
    case DataType::kFloat64:
      return reduce_typed<double>(blocks, num_blocks, count, op, result);
    case DataType::kInt32:
      return reduce_typed<int32_t>(blocks, num_blocks, count, op, result);
    case DataType::kInt64:
      return reduce_typed<int64_t>(blocks, num_blocks, count, op, result);
    case DataType::kUInt8:
      return reduce_typed<uint8_t>(blocks, num_blocks, count, op, result);
    case DataType::kBFloat16:
      break;
  }
  VAX_CHECK(false, "no reduction of ", name_of(type), " on the host");
}

}  // namespace vax::dist
