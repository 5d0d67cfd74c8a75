#include "dist/comm/collectives.h"

#include <array>
#include <exception>

#include "base/error.h"
#include "base/log.h"
#include "base/stopwatch.h"
#include "dist/comm/backend.h"

namespace vax::dist {

namespace {

using Kind = Operation::Kind;

struct TypeRow {
  DataType type;
  const char* name;
  size_t num_bytes;
};
constexpr std::array<TypeRow, 6> kTypes = {{{DataType::kFloat32, "float32", 4},
                                            {DataType::kFloat64, "float64", 8},
                                            {DataType::kBFloat16, "bfloat16", 2},
                                            {DataType::kInt32, "int32", 4},
                                            {DataType::kInt64, "int64", 8},
                                            {DataType::kUInt8, "uint8", 1}}};

const TypeRow& row_of(DataType type) {
  for (const TypeRow& row : kTypes)
    if (row.type == type) return row;
  VAX_CHECK(false, "unknown data type ", static_cast<int>(type));
}

void check_count(const char* operation, int64_t count) {
  VAX_CHECK(count >= 0, operation, " of ", count, " elements");
}

}  // namespace

size_t size_of(DataType type) { return row_of(type).num_bytes; }
const char* name_of(DataType type) { return row_of(type).name; }

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
             {Kind::kAllGather, send, recv, count, type, stream});
}

Work Collectives::reduce_scatter(void* send, void* recv, int64_t count, DataType type, ReduceOp op,
                                 Stream stream) {
  check_count("reduce_scatter", count);
  VAX_CHECK(!traits_.reduces_on_host || type == DataType::kFloat32 || type == DataType::kFloat64,
            "reduce_scatter on the host takes float32 and float64, not ", name_of(type));
  return run("reduce_scatter", size() * count, gather_bytes(count, type, size()),
             {Kind::kReduceScatter, send, recv, count, type, stream, op});
}

Work Collectives::all_reduce(void* data, int64_t count, DataType type, ReduceOp op, Stream stream) {
  check_count("all_reduce", count);
  VAX_CHECK(!traits_.reduces_on_host || type != DataType::kBFloat16,
            "all_reduce on the host does not take ", name_of(type));
  return run("all_reduce", count, all_reduce_bytes(count, type, size()),
             {Kind::kAllReduce, data, data, count, type, stream, op});
}

Work Collectives::broadcast(void* data, int64_t count, DataType type, int root, Stream stream) {
  check_count("broadcast", count);
  VAX_CHECK(root >= 0 && root < size(), "broadcast from rank ", root, " of ", size());
  return run("broadcast", count, broadcast_bytes(count, type, size()),
             {Kind::kBroadcast, data, data, count, type, stream, ReduceOp::kSum, root});
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
