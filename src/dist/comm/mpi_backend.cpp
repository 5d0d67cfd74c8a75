// Collectives over MPI's non-blocking operations. Invariants that are easy to break:
// - MPI counts are int, and implementations multiply them by the number of ranks and the size of an
//   element in int as well: the chunk limit bounds the whole buffer of one call. A chunk of a
//   per-rank block lies `count` elements from the same chunk of the next rank: a resized datatype
//   says so, since displacements in int would overflow first.
// - Every operation starts all its MPI calls at once, in program order. Nothing is started later,
//   on completion: that order would differ between the ranks.
// - Sums do not depend on the MPI library where it matters: reduce_scatter exchanges the blocks and
//   adds them here in rank order (also several times faster than Open MPI 4.1's
//   MPI_Ireduce_scatter_block, which reduces everything on one rank); a short all_reduce gathers
//   and adds in rank order, so that all ranks hold the same bits by construction. A long one leaves
//   it to MPI_Iallreduce, whose algorithms in Open MPI compute each element on one rank and
//   hand it out.
#include "dist/comm/mpi_backend.h"

#include <algorithm>
#include <climits>
#include <cstddef>
#include <functional>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "dist/comm/local_reduce.h"

namespace vax::dist {
namespace {

// Bytes that a short all_reduce may gather: where latency, not bandwidth, sets its time.
constexpr int64_t kGatheredAllReduceBytes = 64 * 1024;
// Receive buffers kept for reuse: fresh pages cost more than the addition they are for.
constexpr size_t kKeptBuffers = 4;
// Collectives have a message space of their own, so that one tag is enough for all messages.
constexpr int kBlockTag = 0;

struct ScratchBuffer {
  std::unique_ptr<std::byte[]> data;
  int64_t num_bytes = 0;
};

// What the operations of one group share.
struct Group {
  Group(MpiCommunicator communicator, int64_t limit, std::shared_ptr<ProgressThread> the_progress)
      : comm(std::move(communicator)),
        rank(comm.rank()),
        size(comm.size()),
        max_elements_per_call(limit),
        progress(std::move(the_progress)) {}

  ScratchBuffer take_scratch(int64_t num_bytes);
  void give_back(ScratchBuffer buffer);

  MpiCommunicator comm;
  int rank, size;
  int64_t max_elements_per_call;
  std::shared_ptr<ProgressThread> progress;  // null: operations are polled
  std::vector<ScratchBuffer> kept;
};

ScratchBuffer Group::take_scratch(int64_t num_bytes) {
  const auto fits = std::find_if(
      kept.begin(), kept.end(),
      [num_bytes](const ScratchBuffer& buffer) { return buffer.num_bytes >= num_bytes; });
  if (fits == kept.end())
    return {std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(num_bytes)), num_bytes};
  ScratchBuffer buffer = std::move(*fits);
  kept.erase(fits);
  return buffer;
}

void Group::give_back(ScratchBuffer buffer) {
  kept.push_back(std::move(buffer));
  if (kept.size() <= kKeptBuffers) return;
  kept.erase(std::min_element(kept.begin(), kept.end(), [](const auto& a, const auto& b) {
    return a.num_bytes < b.num_bytes;
  }));
}

// The MPI requests of one operation and what is to be done with the data once all have arrived.
class MpiOperation final : public Work::State {
 public:
  MpiOperation(std::shared_ptr<Group> group, const char* name, Call call)
      : group_(std::move(group)),
        name_(name),
        call_(std::move(call)),
        progress_(group_->progress.get()) {}
  MpiOperation(const MpiOperation&) = delete;
  MpiOperation& operator=(const MpiOperation&) = delete;
  ~MpiOperation() override;

  // Checks a call that has filled `request`.
  void start(int code, MPI_Request request,
             std::source_location where = std::source_location::current());
  void use_scratch(ScratchBuffer scratch) { scratch_ = std::move(scratch); }
  void on_completion(std::function<void()> action) { action_ = std::move(action); }

  bool test() override;
  void wait() override;

 private:
  void complete(int code);
  void stop_progress();

  std::shared_ptr<Group> group_;
  const char* name_;
  Call call_;
  ProgressThread* progress_;  // null without one, and from completion on
  std::vector<MPI_Request> requests_;
  std::vector<MPI_Status> statuses_;
  ScratchBuffer scratch_;
  std::function<void()> action_;
};

// Only an operation that failed while it was being started still has requests here.
MpiOperation::~MpiOperation() {
  if (requests_.empty()) return;
  stop_progress();
  if (!mpi_is_live()) return;
  call_.wait_begins();
  if (MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE) !=
      MPI_SUCCESS)
    log::error(cat(name_, ": requests that had been started failed"));
}

void MpiOperation::start(int code, MPI_Request request, std::source_location where) {
  check_mpi(code, name_, group_->comm.get(), where);
  requests_.push_back(request);
  if (progress_ && requests_.size() == 1) progress_->add_operation();
}

void MpiOperation::stop_progress() {
  if (progress_ && !requests_.empty()) progress_->remove_operation();
  progress_ = nullptr;
}

bool MpiOperation::test() {
  int done = 0;
  statuses_.resize(requests_.size());
  const int code =
      MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, statuses_.data());
  if (code == MPI_SUCCESS && !done) return false;
  complete(code);
  return true;
}

void MpiOperation::wait() {
  statuses_.resize(requests_.size());
  call_.wait_begins();
  if (group_->progress) group_->progress->enter_wait();
  const int code =
      MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), statuses_.data());
  if (group_->progress) group_->progress->leave_wait();
  complete(code);
}

void MpiOperation::complete(int code) {
  stop_progress();
  requests_.clear();
  call_.done();
  const std::function<void()> action = std::exchange(action_, nullptr);
  if (code == MPI_ERR_IN_STATUS) {
    for (const MPI_Status& status : statuses_)
      if (status.MPI_ERROR != MPI_SUCCESS && status.MPI_ERROR != MPI_ERR_PENDING)
        code = status.MPI_ERROR;
  }
  check_mpi(code, name_, group_->comm.get());
  if (action) action();
  if (scratch_.data) group_->give_back(std::move(scratch_));
}

// A stretch of a buffer that one MPI call handles.
struct Chunk {
  int64_t begin;
  int count;
};

std::vector<Chunk> cut(int64_t count, int64_t limit) {
  std::vector<Chunk> chunks;
  for (int64_t begin = 0; begin < count; begin += limit)
    chunks.push_back({begin, static_cast<int>(std::min(limit, count - begin))});
  return chunks;
}

const std::byte* at(const void* base, int64_t element, DataType type) {
  return static_cast<const std::byte*>(base) + element * static_cast<int64_t>(size_of(type));
}
std::byte* at(void* base, int64_t element, DataType type) {
  return static_cast<std::byte*>(base) + element * static_cast<int64_t>(size_of(type));
}

class MpiBackend final : public Backend {
 public:
  explicit MpiBackend(std::shared_ptr<Group> group) : group_(std::move(group)) {}

  GroupTraits traits() const override {
    return {.name = "mpi", .rank = group_->rank, .size = group_->size};
  }
  Work start(Operation operation) override;
  void barrier(Call call) override;

 private:
  MPI_Comm comm() const { return group_->comm.get(); }
  int size() const { return group_->size; }
  int64_t max_block() const {
    return std::max<int64_t>(1, group_->max_elements_per_call / group_->size);
  }
  // `name` of the MPI function.
  std::unique_ptr<MpiOperation> begin(const char* name, Operation& operation) {
    return std::make_unique<MpiOperation>(group_, name, std::move(operation.call));
  }
  // One element per rank's chunk, as far apart as the ranks' blocks of `count` elements.
  MpiDatatype block_type(const Chunk& chunk, int64_t count, DataType type) const {
    return MpiDatatype::block(chunk.count, mpi_type(type),
                              count * static_cast<int64_t>(size_of(type)), comm());
  }
  Work all_gather(Operation& operation);
  Work reduce_scatter(Operation& operation);
  void exchange_blocks(MpiOperation& exchange, const Operation& operation, void* received);
  Work all_reduce(Operation& operation);
  Work gather_and_reduce(Operation& operation);
  Work broadcast(Operation& operation);

  const std::shared_ptr<Group> group_;
};

Work MpiBackend::start(Operation operation) {
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

Work MpiBackend::all_gather(Operation& operation) {
  const DataType type = operation.type;
  const int64_t count = operation.count;
  auto gather = begin("MPI_Iallgather", operation);
  const bool in_place = operation.send == at(operation.recv, group_->rank * count, type);
  for (const Chunk& chunk : cut(count, max_block())) {
    const MpiDatatype block = block_type(chunk, count, type);
    MPI_Request request = MPI_REQUEST_NULL;
    const int code = MPI_Iallgather(
        in_place ? MPI_IN_PLACE : static_cast<const void*>(at(operation.send, chunk.begin, type)),
        chunk.count, mpi_type(type), at(operation.recv, chunk.begin, type), 1, block.get(), comm(),
        &request);
    gather->start(code, request);
  }
  return Work(std::move(gather));
}

// Every rank sends each other rank its block and adds up what arrives around its own, which stays
// where it is.
Work MpiBackend::reduce_scatter(Operation& operation) {
  const DataType type = operation.type;
  const int64_t count = operation.count;
  auto exchange = begin("MPI_Isend", operation);
  ScratchBuffer scratch =
      group_->take_scratch((size() - 1) * count * static_cast<int64_t>(size_of(type)));
  std::byte* const received = scratch.data.get();
  exchange->use_scratch(std::move(scratch));
  std::vector<const void*> blocks;
  for (int rank = 0, slot = 0; rank < size(); ++rank)
    blocks.push_back(rank == group_->rank ? at(operation.send, rank * count, type)
                                          : at(received, slot++ * count, type));
  exchange_blocks(*exchange, operation, received);
  exchange->on_completion(
      [=, blocks = std::move(blocks), op = operation.op, recv = operation.recv] {
        reduce_blocks(blocks, count, type, op, recv);
      });
  return Work(std::move(exchange));
}

// Block r of `send` goes to rank r; `received` gets those of the other ranks for this one, in rank
// order. Receives first: what arrives finds its place. Messages of one pair of ranks match in the
// order in which they are started.
void MpiBackend::exchange_blocks(MpiOperation& exchange, const Operation& operation,
                                 void* received) {
  const DataType type = operation.type;
  const int64_t count = operation.count;
  const std::vector<Chunk> chunks = cut(count, max_block());
  const auto other = [this](int step) { return (group_->rank + step) % size(); };
  for (int step = 1; step < size(); ++step) {
    const int from = other(step), slot = from < group_->rank ? from : from - 1;
    for (const Chunk& chunk : chunks) {
      MPI_Request request = MPI_REQUEST_NULL;
      const int code = MPI_Irecv(at(received, slot * count + chunk.begin, type), chunk.count,
                                 mpi_type(type), from, kBlockTag, comm(), &request);
      exchange.start(code, request);
    }
  }
  for (int step = size() - 1; step > 0; --step) {
    const int to = other(step);
    for (const Chunk& chunk : chunks) {
      MPI_Request request = MPI_REQUEST_NULL;
      const int code = MPI_Isend(at(operation.send, to * count + chunk.begin, type), chunk.count,
                                 mpi_type(type), to, kBlockTag, comm(), &request);
      exchange.start(code, request);
    }
  }
}

Work MpiBackend::all_reduce(Operation& operation) {
  const DataType type = operation.type;
  const int64_t gathered = size() * operation.count;
  if (gathered * static_cast<int64_t>(size_of(type)) <= kGatheredAllReduceBytes &&
      gathered <= group_->max_elements_per_call)
    return gather_and_reduce(operation);
  auto reduction = begin("MPI_Iallreduce", operation);
  for (const Chunk& chunk : cut(operation.count, group_->max_elements_per_call)) {
    MPI_Request request = MPI_REQUEST_NULL;
    const int code =
        MPI_Iallreduce(MPI_IN_PLACE, at(operation.recv, chunk.begin, type), chunk.count,
                       mpi_type(type), mpi_op(operation.op), comm(), &request);
    reduction->start(code, request);
  }
  return Work(std::move(reduction));
}

Work MpiBackend::gather_and_reduce(Operation& operation) {
  const DataType type = operation.type;
  const int64_t count = operation.count;
  auto gather = begin("MPI_Iallgather", operation);
  if (count == 0) return Work(std::move(gather));
  ScratchBuffer scratch = group_->take_scratch(kGatheredAllReduceBytes);
  std::byte* const received = scratch.data.get();
  gather->use_scratch(std::move(scratch));
  MPI_Request request = MPI_REQUEST_NULL;
  const int code = MPI_Iallgather(operation.send, static_cast<int>(count), mpi_type(type), received,
                                  static_cast<int>(count), mpi_type(type), comm(), &request);
  gather->start(code, request);
  std::vector<const void*> blocks;
  for (int rank = 0; rank < size(); ++rank) blocks.push_back(at(received, rank * count, type));
  gather->on_completion([=, blocks = std::move(blocks), op = operation.op, recv = operation.recv] {
    reduce_blocks(blocks, count, type, op, recv);
  });
  return Work(std::move(gather));
}

Work MpiBackend::broadcast(Operation& operation) {
  auto sending = begin("MPI_Ibcast", operation);
  for (const Chunk& chunk : cut(operation.count, group_->max_elements_per_call)) {
    MPI_Request request = MPI_REQUEST_NULL;
    const int code = MPI_Ibcast(at(operation.recv, chunk.begin, operation.type), chunk.count,
                                mpi_type(operation.type), operation.root, comm(), &request);
    sending->start(code, request);
  }
  return Work(std::move(sending));
}

void MpiBackend::barrier(Call call) {
  call.wait_begins();
  if (group_->progress) group_->progress->enter_wait();
  const int code = MPI_Barrier(comm());
  if (group_->progress) group_->progress->leave_wait();
  check_mpi(code, "MPI_Barrier", comm());
}

}  // namespace

std::unique_ptr<Backend> make_mpi_backend(MpiCommunicator comm, int64_t max_elements_per_call,
                                          std::shared_ptr<ProgressThread> progress) {
  VAX_CHECK(max_elements_per_call >= 1 && max_elements_per_call <= INT_MAX,
            "max_elements_per_call = ", max_elements_per_call, " is not in [1, ", INT_MAX, "]");
  return std::make_unique<MpiBackend>(
      std::make_shared<Group>(std::move(comm), max_elements_per_call, std::move(progress)));
}

}  // namespace vax::dist
