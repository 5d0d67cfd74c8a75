#include "dist/comm/collectives.h"

#include <exception>

#include "base/error.h"
#include "base/log.h"
#include "base/stopwatch.h"
#include "dist/comm/backend.h"

namespace vax::dist {

size_t size_of(DataType type) {
  switch (type) {
    case DataType::kFloat32:
    case DataType::kInt32:
      return 4;
    case DataType::kFloat64:
    case DataType::kInt64:
      return 8;
    case DataType::kBFloat16:
      return 2;
    case DataType::kUInt8:
      return 1;
  }
  VAX_CHECK(false, "unknown data type ", static_cast<int>(type));
}

const char* name_of(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return "float32";
    case DataType::kFloat64:
      return "float64";
    case DataType::kBFloat16:
      return "bfloat16";
    case DataType::kInt32:
      return "int32";
    case DataType::kInt64:
      return "int64";
    case DataType::kUInt8:
      return "uint8";
  }
  VAX_CHECK(false, "unknown data type ", static_cast<int>(type));
}

Work& Work::operator=(Work&& other) {
  if (this != &other) {
    wait();
    state_ = std::move(other.state_);
    statistics_ = std::move(other.statistics_);
  }
  return *this;
}

// During unwinding too: the buffers die with the caller's frame, so the operation must be over. It
// does come to its end: whatever this rank has started, the others start as well, or fail
// themselves and end the job.
Work::~Work() {
  try {
    wait();
  } catch (const std::exception& error) {
    log::error(cat("a pending collective failed: ", error.what()));
  }
}

bool Work::test() {
  if (state_ && state_->test()) state_.reset();
  return !state_;
}

void Work::wait() {
  // Given up first: after an error there is nothing left to wait for.
  const std::unique_ptr<State> state = std::move(state_);
  if (!state) return;
  const bool counts = statistics_ && state->blocks_host();
  const Stopwatch watch;
  state->wait();
  if (counts) statistics_->blocked_s += watch.elapsed_s();
}

int64_t gather_bytes(int64_t count, DataType type, int size) {
  return (size - 1) * count * static_cast<int64_t>(size_of(type));
}

int64_t all_reduce_bytes(int64_t count, DataType type, int size) {
  return 2 * (size - 1) * count * static_cast<int64_t>(size_of(type)) / size;
}

int64_t broadcast_bytes(int64_t count, DataType type, int size) {
  return size == 1 ? 0 : count * static_cast<int64_t>(size_of(type));
}

namespace {

void check_count(const char* operation, int64_t count) {
  VAX_CHECK(count >= 0, operation, " of ", count, " elements");
}

}  // namespace

Collectives::Collectives(std::unique_ptr<Backend> backend, std::shared_ptr<CallGroup> calls)
    : backend_(std::move(backend)),
      calls_(std::move(calls)),
      traits_(backend_->traits()),
      statistics_(std::make_shared<CollectiveStatistics>()) {}

Collectives::~Collectives() = default;

Call Collectives::record(const char* name, int64_t elements, int64_t num_bytes,
                         int64_t sent_bytes) {
  statistics_->blocked_s += backend_->make_room();
  ++statistics_->num_calls;
  statistics_->num_bytes += sent_bytes;
  return Call(calls_, name, elements, num_bytes);
}

Work Collectives::run(const char* name, int64_t elements, int64_t sent_bytes, Operation operation) {
  const int64_t num_bytes = elements * static_cast<int64_t>(size_of(operation.type));
  operation.call = record(name, elements, num_bytes, sent_bytes);
  Work work = backend_->start(std::move(operation));
  work.statistics_ = statistics_;
  return work;
}

Work Collectives::all_gather(const void* send, void* recv, int64_t count, DataType type,
                             Stream stream) {
  check_count("all_gather", count);
  return run("all_gather", size() * count, gather_bytes(count, type, size()),
             {.kind = Operation::Kind::kAllGather,
              .send = send,
              .recv = recv,
              .count = count,
              .type = type,
              .stream = stream});
}

Work Collectives::reduce_scatter(void* send, void* recv, int64_t count, DataType type, ReduceOp op,
                                 Stream stream) {
  check_count("reduce_scatter", count);
  VAX_CHECK(!traits_.reduces_on_host || type == DataType::kFloat32 || type == DataType::kFloat64,
            "reduce_scatter on the host takes float32 and float64, not ", name_of(type));
  return run("reduce_scatter", size() * count, gather_bytes(count, type, size()),
             {.kind = Operation::Kind::kReduceScatter,
              .send = send,
              .recv = recv,
              .count = count,
              .type = type,
              .op = op,
              .stream = stream});
}

Work Collectives::all_reduce(void* data, int64_t count, DataType type, ReduceOp op, Stream stream) {
  check_count("all_reduce", count);
  VAX_CHECK(!traits_.reduces_on_host || type != DataType::kBFloat16,
            "all_reduce on the host does not take ", name_of(type));
  return run("all_reduce", count, all_reduce_bytes(count, type, size()),
             {.kind = Operation::Kind::kAllReduce,
              .send = data,
              .recv = data,
              .count = count,
              .type = type,
              .op = op,
              .stream = stream});
}

Work Collectives::broadcast(void* data, int64_t count, DataType type, int root, Stream stream) {
  check_count("broadcast", count);
  VAX_CHECK(root >= 0 && root < size(), "broadcast from rank ", root, " of ", size());
  return run("broadcast", count, broadcast_bytes(count, type, size()),
             {.kind = Operation::Kind::kBroadcast,
              .send = data,
              .recv = data,
              .count = count,
              .type = type,
              .root = root,
              .stream = stream});
}

void Collectives::barrier() {
  Call call = record("barrier", 0, 0, 0);
  const Stopwatch watch;
  backend_->barrier(std::move(call));
  if (size() > 1) statistics_->blocked_s += watch.elapsed_s();
}

std::shared_ptr<void> Collectives::allocate(int64_t num_bytes) {
  VAX_CHECK(num_bytes >= 0, "allocation of ", num_bytes, " bytes");
  return backend_->allocate(num_bytes);
}

}  // namespace vax::dist
