// A piece goes through three stages: copying in (on the stream `in_`, behind the operands and
// behind the copy out of the piece that had its buffer before), exchanged (by the host group,
// started in the order of the queue), copying out (on the stream `out_`, in the order of the
// queue); with that it has left the queue. Two streams, since a copy in may wait for operands that
// are made after what a copy out delivers. Invariants that are easy to break:
// - a buffer's host memory belongs to MPI from the end of the copy in to the end of the exchange,
//   and to the device otherwise;
// - the buffer is taken again no sooner than its piece has left the queue, and filled again no
//   sooner than its copy out is done, which stream `in_` waits for.
#include "dist/device/cuda_staged_backend.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "dist/device/cuda_group.h"

namespace vax::dist {
namespace {

constexpr size_t kNumBuffers = 2;
constexpr int64_t kLargestElement = 8;  // bytes

// `num_rows` rows of `row_bytes`, `stride_bytes` from one to the next on the device and without
// gaps on the host; null: nothing.
struct Block {
  std::byte* device = nullptr;
  int64_t stride_bytes = 0, row_bytes = 0, num_rows = 0;
  int64_t host_offset = 0;  // in the buffer
};

struct Buffer {
  CudaMemory memory;
  CudaEvent filled, emptied;
  std::byte* at(int64_t offset) const { return static_cast<std::byte*>(memory.get()) + offset; }
};

using Exchange = std::function<Work(std::byte* buffer)>;

struct Piece {
  std::shared_ptr<CudaCall> call;
  bool is_last = false;  // of its call
  Block in, out;
  Exchange exchange;
  Buffer* buffer = nullptr;  // none: it waits for one
  bool is_exchanging = false;
  Work work;
};

class Group final : public CudaGroup {
 public:
  Group(const Communicator& ranks, const DeviceContext& device, const std::string& purpose,
        int64_t staging_bytes);
  ~Group() override;

  void poll() override;
  // MPI ends with the process.
  void abort() noexcept override {}

  void add(Piece piece) { pieces_.push_back(std::move(piece)); }
  int64_t staging_bytes() const { return staging_bytes_; }

  const std::unique_ptr<Collectives> host;

 private:
  void start_copies_in();
  void start_exchanges();
  void finish_exchanges();

  const int64_t staging_bytes_;
  CudaStream in_, out_;
  std::array<Buffer, kNumBuffers> buffers_;
  size_t num_copied_in_ = 0;  // pieces so far
  std::deque<Piece> pieces_;
};

Group::Group(const Communicator& ranks, const DeviceContext& the_device, const std::string& purpose,
             int64_t staging_bytes)
    : CudaGroup(ranks, the_device),
      host(ranks.make_collectives(purpose + " on the host")),
      staging_bytes_(std::max(staging_bytes, (ranks.size() + 1) * kLargestElement)) {
  for (Buffer& buffer : buffers_) buffer.memory = pinned_memory(staging_bytes_);
  devices->add(*this);
}

Group::~Group() {
  try {
    if (!unwinds()) wait_until_idle();
  } catch (const std::exception& error) {
    log::error(error.what());
  }
  devices->remove(*this);
}

void Group::poll() {
  select_device();
  finish_exchanges();
  start_copies_in();
  start_exchanges();
  drop_done();
}

// Row by row: copies of two dimensions take no stride of 2 GiB.
void copy(const Block& block, std::byte* host, bool to_device, cudaStream_t stream) {
  if (block.device == nullptr) return;
  for (int64_t row = 0; row < block.num_rows; ++row) {
    std::byte* const on_device = block.device + row * block.stride_bytes;
    std::byte* const on_host = host + row * block.row_bytes;
    VAX_CUDA(cudaMemcpyAsync(to_device ? on_device : on_host, to_device ? on_host : on_device,
                             static_cast<size_t>(block.row_bytes),
                             to_device ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, stream));
  }
}

// Buffers go round in the order of the pieces; at most the first kNumBuffers pieces have one.
void Group::start_copies_in() {
  for (size_t i = 0; i < std::min(pieces_.size(), kNumBuffers); ++i) {
    Piece& piece = pieces_[i];
    if (piece.buffer != nullptr) continue;
    piece.buffer = &buffers_[num_copied_in_++ % kNumBuffers];
    piece.buffer->emptied.block(in_.get());
    piece.call->ready.block(in_.get());
    copy(piece.in, piece.buffer->at(piece.in.host_offset), false, in_.get());
    piece.buffer->filled.record(in_.get());
  }
}

void Group::start_exchanges() {
  for (Piece& piece : pieces_) {
    if (piece.is_exchanging) continue;
    if (piece.buffer == nullptr || !piece.buffer->filled.is_done()) return;
    piece.work = piece.exchange(piece.buffer->at(0));
    piece.is_exchanging = true;
  }
}

void Group::finish_exchanges() {
  while (!pieces_.empty() && pieces_.front().is_exchanging && pieces_.front().work.test()) {
    const Piece& piece = pieces_.front();
    copy(piece.out, piece.buffer->at(piece.out.host_offset), true, out_.get());
    piece.buffer->emptied.record(out_.get());
    if (piece.is_last) submit(*piece.call, out_.get());
    pieces_.pop_front();
  }
}

class StagedBackend final : public Backend {
 public:
  explicit StagedBackend(std::shared_ptr<Group> group) : group_(std::move(group)) {}

  GroupTraits traits() const override {
    return {.name = "staged", .rank = group_->rank, .size = group_->size, .orders_stream = true};
  }
  double make_room() override { return group_->make_room(); }
  Work start(Operation operation) override;
  void barrier(Call call) override;

 private:
  // A stretch of each rank's part (or of the whole buffer), in bytes and elements.
  struct Stretch {
    int64_t begin_bytes, num_bytes, count;
  };
  // `count` elements are cut into stretches, of which a buffer holds `num_copies`.
  // `make_piece(stretch)`: its blocks and exchange.
  template <typename MakePiece>
  Work run(Operation& operation, int64_t num_copies, MakePiece make_piece);
  Work all_gather(Operation& operation);
  Work reduce_scatter(Operation& operation);
  Work all_reduce(Operation& operation);
  Work broadcast(Operation& operation);

  const std::shared_ptr<Group> group_;
};

template <typename MakePiece>
Work StagedBackend::run(Operation& operation, int64_t num_copies, MakePiece make_piece) {
  Group& group = *group_;
  const std::shared_ptr<CudaCall> call = group.start(std::move(operation.call), operation.stream);
  const int64_t element = static_cast<int64_t>(size_of(operation.type));
  const int64_t longest = group.staging_bytes() / (num_copies * element);
  for (int64_t begin = 0; begin < operation.count; begin += longest) {
    const int64_t count = std::min(longest, operation.count - begin);
    Piece piece = make_piece(Stretch{begin * element, count * element, count});
    piece.call = call;
    piece.is_last = begin + count == operation.count;
    group.add(std::move(piece));
  }
  if (operation.count == 0) group.submit(*call, call->consumer);
  group.poll();
  return make_work(group_, call);
}

Work StagedBackend::start(Operation operation) {
  switch (operation.kind) {
    case Operation::Kind::kAllGather:
      return all_gather(operation);
    case Operation::Kind::kReduceScatter:
      return reduce_scatter(operation);
    case Operation::Kind::kAllReduce:
      return all_reduce(operation);
    case Operation::Kind::kBroadcast:
      return broadcast(operation);
  }
  VAX_CHECK(false, "unknown operation ", static_cast<int>(operation.kind));
}

// On the device; Block serves both directions.
std::byte* device_bytes(const void* memory) {
  return static_cast<std::byte*>(const_cast<void*>(memory));
}

// The buffer holds what this rank sends, then what it receives.
Work StagedBackend::all_gather(Operation& operation) {
  std::byte* const from = device_bytes(operation.send);
  std::byte* const to = device_bytes(operation.recv);
  const DataType type = operation.type;
  const int64_t part_bytes = operation.count * static_cast<int64_t>(size_of(type));
  const int64_t size = group_->size;
  return run(operation, size + 1, [&](const Stretch& stretch) {
    const int64_t bytes = stretch.num_bytes;
    return Piece{.in = {from + stretch.begin_bytes, bytes, bytes, 1, 0},
                 .out = {to + stretch.begin_bytes, part_bytes, bytes, size, bytes},
                 .exchange = [this_group = group_.get(), stretch, type](std::byte* buffer) {
                   return this_group->host->all_gather(buffer, buffer + stretch.num_bytes,
                                                       stretch.count, type);
                 }};
  });
}

// The buffer holds this rank's addends for every rank, then its part of the sum.
Work StagedBackend::reduce_scatter(Operation& operation) {
  std::byte* const from = device_bytes(operation.send);
  std::byte* const to = device_bytes(operation.recv);
  const DataType type = operation.type;
  const int64_t part_bytes = operation.count * static_cast<int64_t>(size_of(type));
  const int64_t size = group_->size;
  return run(operation, size + 1, [&](const Stretch& stretch) {
    const int64_t bytes = stretch.num_bytes, sum_offset = size * bytes;
    return Piece{.in = {from + stretch.begin_bytes, part_bytes, bytes, size, 0},
                 .out = {to + stretch.begin_bytes, bytes, bytes, 1, sum_offset},
                 .exchange = [this_group = group_.get(), stretch, type, op = operation.op,
                              sum_offset](std::byte* buffer) {
                   return this_group->host->reduce_scatter(buffer, buffer + sum_offset,
                                                           stretch.count, type, op);
                 }};
  });
}

Work StagedBackend::all_reduce(Operation& operation) {
  std::byte* const memory = device_bytes(operation.recv);
  return run(operation, 1, [&](const Stretch& stretch) {
    const Block block{memory + stretch.begin_bytes, stretch.num_bytes, stretch.num_bytes, 1, 0};
    return Piece{.in = block,
                 .out = block,
                 .exchange = [this_group = group_.get(), stretch, type = operation.type,
                              op = operation.op](std::byte* buffer) {
                   return this_group->host->all_reduce(buffer, stretch.count, type, op);
                 }};
  });
}

Work StagedBackend::broadcast(Operation& operation) {
  std::byte* const memory = device_bytes(operation.recv);
  const bool is_root = group_->rank == operation.root;
  return run(operation, 1, [&](const Stretch& stretch) {
    const Block block{memory + stretch.begin_bytes, stretch.num_bytes, stretch.num_bytes, 1, 0};
    return Piece{.in = is_root ? block : Block{},
                 .out = is_root ? Block{} : block,
                 .exchange = [this_group = group_.get(), stretch, type = operation.type,
                              root = operation.root](std::byte* buffer) {
                   return this_group->host->broadcast(buffer, stretch.count, type, root);
                 }};
  });
}

// One byte of each rank goes round through the queue, behind everything before it; the barrier of
// the host group would overtake pieces that wait for the device.
void StagedBackend::barrier(Call call) {
  Operation operation{.kind = Operation::Kind::kAllReduce,
                      .send = nullptr,
                      .recv = nullptr,
                      .count = 1,
                      .type = DataType::kUInt8,
                      .call = std::move(call)};
  Work work = run(operation, 1, [&](const Stretch&) {
    return Piece{.exchange = [this_group = group_.get()](std::byte* buffer) {
      buffer[0] = std::byte{0};
      return this_group->host->all_reduce(buffer, 1, DataType::kUInt8, ReduceOp::kMax);
    }};
  });
  group_->devices->wait_until([&] { return work.test(); });
}

}  // namespace

std::unique_ptr<Backend> make_staged_backend(const Communicator& ranks, const DeviceContext& device,
                                             const std::string& purpose, int64_t staging_bytes) {
  VAX_CHECK(staging_bytes > 0, "staging buffers of ", staging_bytes, " bytes");
  return std::make_unique<StagedBackend>(
      std::make_shared<Group>(ranks, device, purpose, staging_bytes));
}

}  // namespace vax::dist
