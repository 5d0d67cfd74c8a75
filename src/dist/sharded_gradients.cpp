// A fixed number of buffers goes round: free, handed out, under way (its reduce-scatter started),
// free again once the sum has been added to the shard. Those under way form a queue that is emptied
// from the front only, so that additions to one shard always happen in the order of the releases.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <deque>

#include "base/error.h"
#include "dist/sharded_units.h"

namespace vax::dist {
namespace {

// One is filled while one is under way; two when two units are acquired at once.
constexpr int kNumBuffers = 2;

}  // namespace

struct ShardedGradients::Impl {
  struct Buffer {
    at::Tensor send;  // [elements of the largest unit, padded], fp32
    at::Tensor recv;  // [elements of its shard], fp32
    int unit = kNoUnit;
    bool under_way = false;
    Work reducing;
  };

  Impl(Collectives& collectives, const std::vector<int64_t>& unit_counts, at::Device device);
  bool reduces(int unit) const { return group.size() > 1 && partitions[unit].count > 0; }
  Buffer* find(int unit);  // the handed out buffer of `unit`; null if there is none
  Buffer& free_buffer(int unit);
  void add_oldest();
  void poll();

  Collectives& group;
  std::vector<Partition> partitions;
  std::vector<at::Tensor> shards;
  std::vector<bool> held;  // of each unit
  std::array<Buffer, kNumBuffers> buffers;
  std::deque<Buffer*> queue;  // under way, oldest first
};

ShardedGradients::Impl::Impl(Collectives& collectives, const std::vector<int64_t>& unit_counts,
                             at::Device device)
    : group(collectives), held(unit_counts.size(), false) {
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(device);
  int64_t largest = 0;
  for (const int64_t count : unit_counts) {
    partitions.push_back(make_partition(count, group.rank(), group.size()));
    shards.push_back(at::zeros({partitions.back().shard_count}, options));
    largest = std::max(largest, partitions.back().shard_count);
  }
  if (group.size() == 1) return;
  for (Buffer& buffer : buffers) {
    buffer.send = at::empty({largest * group.size()}, options);
    buffer.recv = at::empty({largest}, options);
  }
}

ShardedGradients::Impl::Buffer* ShardedGradients::Impl::find(int unit) {
  for (Buffer& buffer : buffers)
    if (buffer.unit == unit && !buffer.under_way) return &buffer;
  return nullptr;
}

ShardedGradients::Impl::Buffer& ShardedGradients::Impl::free_buffer(int unit) {
  if (Buffer* const free = find(kNoUnit)) return *free;
  VAX_CHECK(!queue.empty(), "unit ", unit, " is acquired while ", kNumBuffers, " others are held");
  add_oldest();
  return *find(kNoUnit);
}

void ShardedGradients::Impl::add_oldest() {
  Buffer& buffer = *queue.front();
  queue.pop_front();
  buffer.reducing.wait();
  at::Tensor& shard = shards[buffer.unit];
  shard.add_(buffer.recv.narrow(0, 0, shard.numel()));
  buffer.under_way = false;
  buffer.unit = kNoUnit;
}

void ShardedGradients::Impl::poll() {
  while (!queue.empty() && queue.front()->reducing.test()) add_oldest();
}

ShardedGradients::ShardedGradients(Collectives& group, std::vector<int64_t> unit_counts,
                                   at::Device device)
    : impl_(std::make_unique<Impl>(group, unit_counts, device)) {}
ShardedGradients::~ShardedGradients() = default;

at::Tensor ShardedGradients::acquire(int unit) {
  const Partition& partition = impl_->partitions.at(unit);
  VAX_CHECK(!impl_->held[unit], "gradient of unit ", unit, " is acquired twice");
  impl_->poll();
  if (!impl_->reduces(unit)) {
    impl_->held[unit] = true;
    return impl_->shards[unit].narrow(0, 0, partition.count);
  }
  Impl::Buffer& buffer = impl_->free_buffer(unit);
  buffer.unit = unit;
  impl_->held[unit] = true;
  buffer.send.narrow(0, 0, partition.shard_count * impl_->group.size()).zero_();
  return buffer.send.narrow(0, 0, partition.count);
}

void ShardedGradients::release(int unit) {
  VAX_CHECK(impl_->held.at(unit), "gradient of unit ", unit, " is released without acquire");
  impl_->held[unit] = false;
  if (!impl_->reduces(unit)) return;
  Impl::Buffer& buffer = *impl_->find(unit);
  buffer.under_way = true;
  buffer.reducing = impl_->group.reduce_scatter(buffer.send.data_ptr(), buffer.recv.data_ptr(),
                                                impl_->partitions[unit].shard_count,
                                                DataType::kFloat32, ReduceOp::kSum);
  impl_->queue.push_back(&buffer);
  impl_->poll();
}

void ShardedGradients::finish() {
  while (!impl_->queue.empty()) impl_->add_oldest();
}

at::Tensor& ShardedGradients::shard(int unit) { return impl_->shards.at(unit); }

void ShardedGradients::zero() {
  VAX_CHECK(impl_->queue.empty() &&
                std::find(impl_->held.begin(), impl_->held.end(), true) == impl_->held.end(),
            "gradients are zeroed while units are held or reductions outstanding");
  for (at::Tensor& shard : impl_->shards) shard.zero_();
}

int64_t ShardedGradients::num_bytes() const {
  int64_t elements = 0;
  for (const at::Tensor& shard : impl_->shards) elements += shard.numel();
  for (const Impl::Buffer& buffer : impl_->buffers)
    if (buffer.send.defined()) elements += buffer.send.numel() + buffer.recv.numel();
  return elements * static_cast<int64_t>(sizeof(float));
}

}  // namespace vax::dist
