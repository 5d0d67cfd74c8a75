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
// Works share ownership of the group, so they may outlive the Collectives.
#include "dist/mpi_collectives.h"

#include <algorithm>
#include <climits>
#include <cstddef>
#include <functional>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/stopwatch.h"
#include "dist/call_accounting.h"
#include "dist/local_reduce.h"

namespace vax::dist {
namespace {

// Bytes that a short all_reduce may gather: where latency, not bandwidth, sets its time.
constexpr int64_t kGatheredAllReduceBytes = 64 * 1024;
// Receive buffers kept for reuse: fresh pages cost more than the addition they are for.
constexpr size_t kKeptBuffers = 4;

struct ScratchBuffer {
  std::unique_ptr<std::byte[]> data;
  int64_t num_bytes = 0;
};

// What the operations of one group share.
struct Group {
  Group(MpiCommunicator communicator, int64_t limit)
      : comm(std::move(communicator)),
        rank(comm.rank()),
        size(comm.size()),
        max_elements_per_call(limit) {}

  ScratchBuffer take_scratch(int64_t num_bytes);
  void give_back(ScratchBuffer buffer);

  MpiCommunicator comm;
  int rank, size;
  int64_t max_elements_per_call;
  CollectiveStatistics statistics;
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
  MpiOperation(std::shared_ptr<Group> group, const char* name)
      : group_(std::move(group)), name_(name) {}
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

  std::shared_ptr<Group> group_;
  const char* name_;
  std::vector<MPI_Request> requests_;
  std::vector<MPI_Status> statuses_;
  ScratchBuffer scratch_;
  std::function<void()> action_;
};

// Only an operation that failed while it was being started still has requests here.
MpiOperation::~MpiOperation() {
  if (requests_.empty() || !mpi_is_live()) return;
  if (MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE) !=
      MPI_SUCCESS)
    log::error(cat(name_, ": requests that had been started failed"));
}

void MpiOperation::start(int code, MPI_Request request, std::source_location where) {
  check_mpi(code, name_, group_->comm.get(), where);
  requests_.push_back(request);
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
  const Stopwatch watch;
  statuses_.resize(requests_.size());
  const int code =
      MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), statuses_.data());
  complete(code);
  group_->statistics.blocked_s += watch.elapsed_s();
}

void MpiOperation::complete(int code) {
  requests_.clear();
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

class MpiCollectives final : public Collectives {
 public:
  MpiCollectives(MpiCommunicator comm, int64_t max_elements_per_call)
      : group_(std::make_shared<Group>(std::move(comm), max_elements_per_call)) {}

  int rank() const override { return group_->rank; }
  int size() const override { return group_->size; }
  std::string name() const override { return "mpi"; }

  Work all_gather(const void* send, void* recv, int64_t count, DataType type, Stream) override;
  Work reduce_scatter(void* send, void* recv, int64_t count, DataType type, ReduceOp op,
                      Stream) override;
  Work all_reduce(void* data, int64_t count, DataType type, ReduceOp op, Stream) override;
  Work broadcast(void* data, int64_t count, DataType type, int root, Stream) override;
  void barrier() override;

  CollectiveStatistics statistics() const override { return group_->statistics; }

 private:
  MPI_Comm comm() const { return group_->comm.get(); }
  int64_t max_block() const {
    return std::max<int64_t>(1, group_->max_elements_per_call / group_->size);
  }
  std::unique_ptr<MpiOperation> begin(const char* name, int64_t num_bytes);
  // One element per rank's chunk, as far apart as the ranks' blocks of `count` elements.
  MpiDatatype block_type(const Chunk& chunk, int64_t count, DataType type) const {
    return MpiDatatype::block(chunk.count, mpi_type(type),
                              count * static_cast<int64_t>(size_of(type)), comm());
  }
  Work gather_and_reduce(void* data, int64_t count, DataType type, ReduceOp op);

  std::shared_ptr<Group> group_;
};

std::unique_ptr<MpiOperation> MpiCollectives::begin(const char* name, int64_t num_bytes) {
  ++group_->statistics.num_calls;
  group_->statistics.num_bytes += num_bytes;
  return std::make_unique<MpiOperation>(group_, name);
}

Work MpiCollectives::all_gather(const void* send, void* recv, int64_t count, DataType type,
                                Stream) {
  check_count("all_gather", count);
  auto operation = begin("MPI_Iallgather", gather_bytes(count, type, size()));
  const bool in_place = send == at(recv, rank() * count, type);
  for (const Chunk& chunk : cut(count, max_block())) {
    const MpiDatatype block = block_type(chunk, count, type);
    MPI_Request request = MPI_REQUEST_NULL;
    const int code = MPI_Iallgather(
        in_place ? MPI_IN_PLACE : static_cast<const void*>(at(send, chunk.begin, type)),
        chunk.count, mpi_type(type), at(recv, chunk.begin, type), 1, block.get(), comm(), &request);
    operation->start(code, request);
  }
  return Work(std::move(operation));
}

Work MpiCollectives::reduce_scatter(void* send, void* recv, int64_t count, DataType type,
                                    ReduceOp op, Stream) {
  check_host_reduce_scatter(count, type);
  auto operation = begin("MPI_Ialltoall", gather_bytes(count, type, size()));
  const int64_t num_bytes = size() * count * static_cast<int64_t>(size_of(type));
  ScratchBuffer scratch = group_->take_scratch(num_bytes);
  std::byte* const received = scratch.data.get();
  operation->use_scratch(std::move(scratch));
  std::vector<Chunk> chunks = cut(count, max_block());
  for (const Chunk& chunk : chunks) {
    const MpiDatatype block = block_type(chunk, count, type);
    MPI_Request request = MPI_REQUEST_NULL;
    const int code = MPI_Ialltoall(at(send, chunk.begin, type), 1, block.get(),
                                   at(received, size() * chunk.begin, type), chunk.count,
                                   mpi_type(type), comm(), &request);
    operation->start(code, request);
  }
  operation->on_completion([=, size = size(), chunks = std::move(chunks)] {
    for (const Chunk& chunk : chunks)
      reduce_blocks(at(received, size * chunk.begin, type), size, chunk.count, type, op,
                    at(recv, chunk.begin, type));
  });
  return Work(std::move(operation));
}

Work MpiCollectives::all_reduce(void* data, int64_t count, DataType type, ReduceOp op, Stream) {
  check_host_all_reduce(count, type);
  const int64_t gathered = size() * count;
  if (gathered * static_cast<int64_t>(size_of(type)) <= kGatheredAllReduceBytes &&
      gathered <= group_->max_elements_per_call)
    return gather_and_reduce(data, count, type, op);
  auto operation = begin("MPI_Iallreduce", all_reduce_bytes(count, type, size()));
  for (const Chunk& chunk : cut(count, group_->max_elements_per_call)) {
    MPI_Request request = MPI_REQUEST_NULL;
    const int code = MPI_Iallreduce(MPI_IN_PLACE, at(data, chunk.begin, type), chunk.count,
                                    mpi_type(type), mpi_op(op), comm(), &request);
    operation->start(code, request);
  }
  return Work(std::move(operation));
}

Work MpiCollectives::gather_and_reduce(void* data, int64_t count, DataType type, ReduceOp op) {
  auto operation = begin("MPI_Iallgather", all_reduce_bytes(count, type, size()));
  if (count == 0) return Work(std::move(operation));
  ScratchBuffer scratch = group_->take_scratch(kGatheredAllReduceBytes);
  std::byte* const received = scratch.data.get();
  operation->use_scratch(std::move(scratch));
  MPI_Request request = MPI_REQUEST_NULL;
  const int code = MPI_Iallgather(data, static_cast<int>(count), mpi_type(type), received,
                                  static_cast<int>(count), mpi_type(type), comm(), &request);
  operation->start(code, request);
  operation->on_completion(
      [=, size = size()] { reduce_blocks(received, size, count, type, op, data); });
  return Work(std::move(operation));
}

Work MpiCollectives::broadcast(void* data, int64_t count, DataType type, int root, Stream) {
  check_broadcast(count, root, size());
  auto operation = begin("MPI_Ibcast", broadcast_bytes(count, type, size()));
  for (const Chunk& chunk : cut(count, group_->max_elements_per_call)) {
    MPI_Request request = MPI_REQUEST_NULL;
    const int code = MPI_Ibcast(at(data, chunk.begin, type), chunk.count, mpi_type(type), root,
                                comm(), &request);
    operation->start(code, request);
  }
  return Work(std::move(operation));
}

void MpiCollectives::barrier() {
  const Stopwatch watch;
  ++group_->statistics.num_calls;
  VAX_MPI(comm(), MPI_Barrier(comm()));
  group_->statistics.blocked_s += watch.elapsed_s();
}

}  // namespace

std::unique_ptr<Collectives> make_mpi_collectives(MpiCommunicator comm,
                                                  int64_t max_elements_per_call) {
  VAX_CHECK(max_elements_per_call >= 1 && max_elements_per_call <= INT_MAX,
            "max_elements_per_call = ", max_elements_per_call, " is not in [1, ", INT_MAX, "]");
  return std::make_unique<MpiCollectives>(std::move(comm), max_elements_per_call);
}

}  // namespace vax::dist
