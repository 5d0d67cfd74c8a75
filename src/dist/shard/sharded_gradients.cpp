// A fixed number of buffers goes round: free, handed out, under way (its reduction started), free
// again once the sum has been added to the shard. Those under way form a queue that is emptied
// from the front only, so that additions to one shard always happen in the order of the releases.
// Which buffer a unit gets depends on the order of the calls alone: in shared memory all ranks must
// choose the same one.
//
// On a device sums are added only where a buffer is needed again, and in finish(): what is put on
// the compute stream must not depend on when reductions happen to end. Every hand-over of memory is
// ordered by the two rules of device groups (an operation starts after what the compute stream
// holds when it is called; after wait() the compute stream goes on behind it):
// - a buffer that is handed out again: add_oldest() has waited for the reduction that read it;
// - `recv`: the next reduction into it is called behind the addition that has read it;
// - a shard that a reduction writes: what read it before (the optimizer) is on the compute stream,
//   and so is what reads it after add_oldest(). Shards are ordinary tensors of that stream; they go
//   after the buffers, whose reductions the stream has passed by then, so that the allocator may
//   hand their memory out again there.
#include <ATen/ATen.h>

#include <algorithm>
#include <deque>

#include "base/error.h"
#include "base/stopwatch.h"
#include "dist/comm/local_reduce.h"
#include "dist/shard/group_buffer.h"
#include "dist/shard/node_buffers.h"
#include "dist/shard/sharded_units.h"

namespace vax::dist {
namespace {

constexpr int kMaxHeld = 2;  // a tied head's unit and the embedding's

// Elements [begin, end) of a unit that belong to no group.
struct Gap {
  int64_t begin, end;
};

std::vector<int64_t> counts_of(const FlatLayout& layout) {
  std::vector<int64_t> counts;
  for (const FlatUnit& unit : layout) counts.push_back(unit.count);
  return counts;
}

// Groups lie in the order of their offsets.
std::vector<Gap> gaps_of(const FlatUnit& unit) {
  std::vector<Gap> gaps;
  int64_t end = 0;
  for (const FlatGroup& group : unit.groups) {
    if (group.offset > end) gaps.push_back({end, group.offset});
    end = group.offset + group.count;
  }
  if (unit.count > end) gaps.push_back({end, unit.count});
  return gaps;
}

}  // namespace

struct ShardedGradients::Impl {
  struct Buffer {
    at::Tensor send;  // [elements of the largest unit, padded], fp32; the others read it if shared
    at::Tensor recv;  // [elements of its shard], fp32; undefined if shared
    int index = 0;
    int unit = kNoUnit;  // handed out or under way
    bool under_way = false;
    bool first = false;  // of its unit in this step: the sum replaces the shard
    int64_t released = 0;
    Work reducing;
    // If shared, for the watchdog: the sum of what all have published, and that all have read it.
    Call adding, reading;
  };

  Impl(Collectives& collectives, const std::vector<int64_t>& unit_counts,
       const at::TensorOptions& options);
  void allocate_buffers(const Communicator* node, const at::TensorOptions& options);
  bool reduces(int unit) const { return group.size() > 1 && partitions[unit].count > 0; }
  Buffer* find(int unit);  // the handed out buffer of `unit`; null if there is none
  Buffer& free_buffer(int unit);
  void start_reduction(Buffer& buffer);
  bool is_complete(Buffer& buffer);
  void add_oldest();  // REQUIRES that it is complete, or not shared (then BLOCKS host)
  void sum_shared(Buffer& buffer);
  void poll();
  // `reused`: the buffer that is to be free; null: all are.
  template <typename Condition>
  void wait_for_ranks(Buffer* reused, Condition condition);
  void clear_gaps(int unit, at::Tensor& flat) const;

  Collectives& group;
  std::vector<Partition> partitions;
  std::vector<std::vector<Gap>> gaps;  // of each unit; empty: no unit has any
  std::vector<at::Tensor> shards;
  std::vector<bool> held;   // of each unit
  std::vector<bool> fresh;  // of each unit: its shard is void until it is written
  std::vector<Buffer> buffers;
  std::unique_ptr<NodeBuffers> shared;                     // null: reductions go through `group`
  std::shared_ptr<CallGroup> adding_calls, reading_calls;  // if shared
  std::deque<Buffer*> queue;                               // under way, oldest first
  int64_t num_releases = 0;
  double waited_s = 0;
};

ShardedGradients::Impl::Impl(Collectives& collectives, const std::vector<int64_t>& unit_counts,
                             const at::TensorOptions& options)
    : group(collectives), held(unit_counts.size(), false), fresh(unit_counts.size(), true) {
  check_device(group, options.device());
  for (const int64_t count : unit_counts) {
    partitions.push_back(make_partition(count, group.rank(), group.size()));
    shards.push_back(at::zeros({partitions.back().shard_count}, options));
  }
}

void ShardedGradients::Impl::allocate_buffers(const Communicator* node,
                                              const at::TensorOptions& options) {
  if (group.size() == 1) return;
  int64_t largest = 0;
  for (const Partition& partition : partitions) largest = std::max(largest, partition.shard_count);
  const int64_t count = largest * group.size();
  if (node != nullptr) {
    shared = std::make_unique<NodeBuffers>(*node, kNodeGradientBuffers, count);
    adding_calls = node->make_call_group("gradients on the node");
    reading_calls = node->make_call_group("gradients read on the node");
  }
  buffers.resize(static_cast<size_t>(node ? kNodeGradientBuffers : kGradientBuffers));
  std::vector<at::Tensor> memory;
  if (!shared) {
    const std::vector<int64_t> counts = {count, largest, count, largest};
    static_assert(kGradientBuffers == 2);
    memory = make_group_buffers(group, counts, at::kFloat, options.device());
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    buffers[i].index = static_cast<int>(i);
    if (shared) {
      buffers[i].send =
          at::from_blob(shared->data(group.rank(), buffers[i].index), {count}, options);
    } else {
      buffers[i].send = memory[2 * i].zero_();
      buffers[i].recv = memory[2 * i + 1];
    }
  }
}

ShardedGradients::Impl::Buffer* ShardedGradients::Impl::find(int unit) {
  for (Buffer& buffer : buffers)
    if (buffer.unit == unit && !buffer.under_way) return &buffer;
  return nullptr;
}

// The one whose release is longest ago among those that are not handed out.
ShardedGradients::Impl::Buffer& ShardedGradients::Impl::free_buffer(int unit) {
  Buffer* oldest = nullptr;
  int num_handed_out = 0;
  for (Buffer& buffer : buffers) {
    const bool handed_out = buffer.unit != kNoUnit && !buffer.under_way;
    num_handed_out += handed_out;
    if (!handed_out && (oldest == nullptr || buffer.released < oldest->released)) oldest = &buffer;
  }
  VAX_CHECK(num_handed_out < kMaxHeld, "unit ", unit, " is acquired while ", kMaxHeld,
            " others are held");
  if (shared) {
    wait_for_ranks(oldest,
                   [&] { return !oldest->under_way && shared->all_have_read(oldest->index); });
    oldest->reading.done();
  } else {
    while (oldest->under_way) add_oldest();
  }
  return *oldest;
}

void ShardedGradients::Impl::start_reduction(Buffer& buffer) {
  const int unit = buffer.unit;
  buffer.under_way = true;
  buffer.released = ++num_releases;
  buffer.first = fresh[unit];
  fresh[unit] = false;
  queue.push_back(&buffer);
  if (shared) {
    const int64_t count = partitions[unit].shard_count * group.size();
    buffer.adding = Call(adding_calls, "reduce_scatter", count,
                         count * static_cast<int64_t>(size_of(DataType::kFloat32)));
    return shared->publish(buffer.index);
  }
  // A sum that replaces the shard is made there; nothing before it in the queue is of this unit.
  at::Tensor& target = buffer.first ? shards[unit] : buffer.recv;
  buffer.reducing =
      group.reduce_scatter(buffer.send.data_ptr(), target.data_ptr(), partitions[unit].shard_count,
                           DataType::kFloat32, ReduceOp::kSum);
}

bool ShardedGradients::Impl::is_complete(Buffer& buffer) {
  return shared ? shared->all_have_published(buffer.index) : buffer.reducing.test();
}

void ShardedGradients::Impl::add_oldest() {
  Buffer& buffer = *queue.front();
  queue.pop_front();
  buffer.reducing.wait();
  at::Tensor& shard = shards[buffer.unit];
  if (shared)
    sum_shared(buffer);
  else if (!buffer.first)
    shard.add_(buffer.recv.narrow(0, 0, shard.numel()));
  buffer.under_way = false;
  buffer.unit = kNoUnit;
}

void ShardedGradients::Impl::sum_shared(Buffer& buffer) {
  const Partition& partition = partitions[buffer.unit];
  std::vector<const float*> blocks;
  for (int rank = 0; rank < group.size(); ++rank)
    blocks.push_back(shared->data(rank, buffer.index) + partition.begin);
  sum_blocks(blocks, partition.end - partition.begin, !buffer.first,
             shards[buffer.unit].data_ptr<float>());
  shared->mark_read(buffer.index);
  buffer.adding.done();
  buffer.reading = Call(reading_calls, "read", 0, 0);
}

void ShardedGradients::Impl::poll() {
  if (group.orders_stream()) {
    if (!queue.empty()) queue.back()->reducing.test();  // moves the group on
    return;
  }
  while (!queue.empty() && is_complete(*queue.front())) add_oldest();
}

// Goes on adding meanwhile: the others may wait for this rank to have read theirs.
template <typename Condition>
void ShardedGradients::Impl::wait_for_ranks(Buffer* reused, Condition condition) {
  poll();
  if (condition()) return;
  Backoff backoff;
  while (!condition()) {
    const bool is_read = reused != nullptr && !reused->under_way;
    Call& call = is_read ? reused->reading : queue.front()->adding;
    call.wait_begins();
    const Stopwatch watch;
    backoff.pause();
    waited_s += watch.elapsed_s();
    poll();
  }
}

void ShardedGradients::Impl::clear_gaps(int unit, at::Tensor& flat) const {
  if (gaps.empty()) return;
  for (const Gap& gap : gaps[unit]) flat.narrow(0, gap.begin, gap.end - gap.begin).zero_();
}

ShardedGradients::ShardedGradients(Collectives& group, std::vector<int64_t> unit_counts,
                                   at::Device device) {
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(device);
  impl_ = std::make_unique<Impl>(group, unit_counts, options);
  impl_->allocate_buffers(nullptr, options);
}

ShardedGradients::ShardedGradients(Collectives& group, const FlatLayout& layout, at::Device device,
                                   const Communicator* node) {
  VAX_CHECK(node == nullptr || device.is_cpu(), "gradients in shared memory on ", device.str());
  VAX_CHECK(node == nullptr || (node->rank() == group.rank() && node->size() == group.size()),
            "node and group have other ranks");
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(device);
  impl_ = std::make_unique<Impl>(group, counts_of(layout), options);
  impl_->allocate_buffers(node, options);
  for (const FlatUnit& unit : layout) impl_->gaps.push_back(gaps_of(unit));
}

ShardedGradients::~ShardedGradients() = default;

GradientBuffer ShardedGradients::acquire(int unit) {
  Impl& impl = *impl_;
  const Partition& partition = impl.partitions.at(unit);
  VAX_CHECK(!impl.held[unit], "gradient of unit ", unit, " is acquired twice");
  impl.poll();
  if (!impl.reduces(unit)) {
    impl.held[unit] = true;
    return {impl.shards[unit].narrow(0, 0, partition.count), !impl.fresh[unit]};
  }
  Impl::Buffer& buffer = impl.free_buffer(unit);
  buffer.unit = unit;
  impl.held[unit] = true;
  // What another unit has left in the gaps and behind the end would be added to the shard.
  const int64_t padded = partition.shard_count * impl.group.size();
  buffer.send.narrow(0, partition.count, padded - partition.count).zero_();
  at::Tensor flat = buffer.send.narrow(0, 0, partition.count);
  impl.clear_gaps(unit, flat);
  return {flat, false};
}

void ShardedGradients::release(int unit) {
  Impl& impl = *impl_;
  VAX_CHECK(impl.held.at(unit), "gradient of unit ", unit, " is released without acquire");
  impl.held[unit] = false;
  if (impl.reduces(unit))
    impl.start_reduction(*impl.find(unit));
  else
    impl.fresh[unit] = false;
  impl.poll();
}

void ShardedGradients::finish() {
  Impl& impl = *impl_;
  if (impl.shared)
    impl.wait_for_ranks(nullptr, [&impl] { return impl.queue.empty(); });
  else
    while (!impl.queue.empty()) impl.add_oldest();
  for (size_t unit = 0; unit < impl.shards.size(); ++unit) {
    if (impl.fresh[unit]) impl.shards[unit].zero_();
    impl.fresh[unit] = false;
  }
}

at::Tensor& ShardedGradients::shard(int unit) { return impl_->shards.at(unit); }

void ShardedGradients::zero() {
  VAX_CHECK(impl_->queue.empty() &&
                std::find(impl_->held.begin(), impl_->held.end(), true) == impl_->held.end(),
            "gradients are zeroed while units are held or reductions outstanding");
  impl_->fresh.assign(impl_->fresh.size(), true);
}

int64_t ShardedGradients::num_bytes() const {
  size_t bytes = 0;
  for (const at::Tensor& shard : impl_->shards) bytes += shard.nbytes();
  for (const Impl::Buffer& buffer : impl_->buffers)
    bytes += buffer.send.nbytes() + (buffer.recv.defined() ? buffer.recv.nbytes() : 0);
  return static_cast<int64_t>(bytes);
}

double ShardedGradients::waited_s() const { return impl_->waited_s; }

}  // namespace vax::dist
