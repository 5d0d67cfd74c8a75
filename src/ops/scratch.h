// Private to this folder.
// Scratch memory that starts on a cache line. BLAS libraries choose their summation order by the
// alignment of their operands, so a scratch that lies elsewhere from run to run would change bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

namespace vax::ops {

template <typename T>
struct CacheLineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};

  CacheLineAllocator() = default;
  template <typename Other>
  CacheLineAllocator(const CacheLineAllocator<Other>&) noexcept {}

  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), kAlignment));
  }
  void deallocate(T* data, size_t) noexcept { ::operator delete(data, kAlignment); }
  bool operator==(const CacheLineAllocator&) const = default;
};

using FloatScratch = std::vector<float, CacheLineAllocator<float>>;

// Memory that grows on demand and is never set; what it held is lost when it grows.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  ~AlignedBuffer() { CacheLineAllocator<float>().deallocate(data_, count_); }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  float* get(int64_t count) {
    if (static_cast<size_t>(count) > count_) {
      CacheLineAllocator<float>().deallocate(std::exchange(data_, nullptr),
                                             std::exchange(count_, 0));
      data_ = CacheLineAllocator<float>().allocate(static_cast<size_t>(count));
      count_ = static_cast<size_t>(count);
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  size_t count_ = 0;
};

// Packed panels, for callers that make many small products: memory is then asked for once.
struct PanelScratch {
  AlignedBuffer shared, block;
};

// `count` zeros.
inline FloatScratch float_scratch(int64_t count) {
  return FloatScratch(static_cast<size_t>(count));
}

}  // namespace vax::ops
