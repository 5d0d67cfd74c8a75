#include "dist/shard/node_buffers.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>

#include "base/narrow.h"

namespace vax::dist {
namespace {

constexpr int64_t kLine = 64;  // bytes; counters of different ranks do not share a cache line
constexpr int kPublished = 0, kRead = 1, kNumKinds = 2;
constexpr int kYields = 100;
constexpr std::chrono::microseconds kLongestSleep{200};

static_assert(std::atomic_ref<uint64_t>::is_always_lock_free, "counters are shared by processes");

int64_t counter_bytes(int size, int num_buffers) { return kNumKinds * kLine * size * num_buffers; }

int64_t buffer_bytes(int64_t count) {
  return round_up(count * static_cast<int64_t>(sizeof(float)), kLine);
}

}  // namespace

NodeBuffers::NodeBuffers(const Communicator& node, int num_buffers, int64_t count)
    : rank_(node.rank()),
      size_(node.size()),
      num_buffers_(num_buffers),
      stride_bytes_(buffer_bytes(count)),
      memory_(node, counter_bytes(size_, num_buffers) + size_ * num_buffers * stride_bytes_),
      published_(static_cast<size_t>(num_buffers), 0) {}

float* NodeBuffers::data(int rank, int buffer) const {
  std::byte* const first =
      static_cast<std::byte*>(memory_.data()) + counter_bytes(size_, num_buffers_);
  return reinterpret_cast<float*>(first + (rank * num_buffers_ + buffer) * stride_bytes_);
}

uint64_t& NodeBuffers::counter(int kind, int rank, int buffer) const {
  std::byte* const line = static_cast<std::byte*>(memory_.data()) +
                          ((kind * size_ + rank) * num_buffers_ + buffer) * kLine;
  return *reinterpret_cast<uint64_t*>(line);
}

bool NodeBuffers::all_reach(int kind, int buffer) const {
  for (int rank = 0; rank < size_; ++rank)
    if (std::atomic_ref(counter(kind, rank, buffer)).load(std::memory_order_acquire) <
        published_[buffer])
      return false;
  return true;
}

void NodeBuffers::publish(int buffer) {
  std::atomic_ref(counter(kPublished, rank_, buffer))
      .store(++published_[buffer], std::memory_order_release);
}

bool NodeBuffers::all_have_published(int buffer) const { return all_reach(kPublished, buffer); }

void NodeBuffers::mark_read(int buffer) {
  std::atomic_ref(counter(kRead, rank_, buffer))
      .store(published_[buffer], std::memory_order_release);
}

bool NodeBuffers::all_have_read(int buffer) const { return all_reach(kRead, buffer); }

void Backoff::pause() {
  if (++num_yields_ <= kYields) return std::this_thread::yield();
  std::this_thread::sleep_for(sleep_);
  sleep_ = std::min(2 * sleep_, kLongestSleep);
}

}  // namespace vax::dist
