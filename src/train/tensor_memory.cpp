#include "train/tensor_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <malloc.h>

#include <atomic>

#include "ops/device/runtime.h"

namespace vax::train {
namespace {

// Signed: what was allocated before counting began may be freed later.
struct Counter {
  std::atomic<int64_t> held{0}, peak{0};

  void add(int64_t num_bytes) {
    const int64_t now = held.fetch_add(num_bytes, std::memory_order_relaxed) + num_bytes;
    int64_t before = peak.load(std::memory_order_relaxed);
    while (before < now && !peak.compare_exchange_weak(before, now, std::memory_order_relaxed)) {
    }
  }
  void remove(int64_t num_bytes) { held.fetch_sub(num_bytes, std::memory_order_relaxed); }
};

Counter& counter() {
  static Counter instance;
  return instance;
}

int64_t size_of_block(void* data) { return static_cast<int64_t>(::malloc_usable_size(data)); }

void free_counted(void* data) {
  if (data == nullptr) return;
  counter().remove(size_of_block(data));
  c10::free_cpu(data);
}

// The blocks are those of LibTorch's own allocator (64-byte aligned, from malloc), which also knows
// their sizes.
class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t num_bytes) override {
    void* const data = c10::alloc_cpu(num_bytes);
    if (data != nullptr) counter().add(size_of_block(data));
    return {data, data, &free_counted, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_counted; }
  void copy_data(void* destination, const void* source, std::size_t count) const override {
    default_copy_data(destination, source, count);
  }
};

bool on_device() { return !ops::device::current().is_cpu(); }

}  // namespace

void count_tensor_memory() {
  static CountingAllocator allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
}

int64_t tensor_bytes() {
  if (on_device()) return ops::device::held_bytes();
  return counter().held.load(std::memory_order_relaxed);
}

int64_t tensor_peak_bytes() {
  if (on_device()) return ops::device::peak_bytes();
  return counter().peak.load(std::memory_order_relaxed);
}

void reset_tensor_peak() {
  if (on_device()) return ops::device::reset_peak_bytes();
  counter().peak.store(tensor_bytes(), std::memory_order_relaxed);
}

}  // namespace vax::train
