// Invariants that are easy to break:
// - the communicator is non-blocking: calls may return ncclInProgress, and only
//   ncclCommGetAsyncError tells when they are done. A failure that is never asked for is a hang;
// - after an error the communicator is aborted, never destroyed: destroying waits for the others;
// - a handle belongs to the device it was made on, so every call first selects the device.
// Works share ownership of the group, so they may outlive the Collectives.
#include "dist/nccl_collectives.h"

#include <cuda_runtime.h>
#include <nccl.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <filesystem>
#include <source_location>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/stopwatch.h"
#include "dist/call_accounting.h"
#include "dist/call_log.h"

namespace vax::dist {
namespace {

constexpr std::chrono::microseconds kPollInterval{50};

[[noreturn]] void fail(std::string_view call, const char* reason, int rank, int size,
                       std::source_location where) {
  throw CommError(cat(call.substr(0, call.find('(')), " failed on rank ", rank, "/", size, " (",
                      reason, ") at ", std::filesystem::path(where.file_name()).filename().string(),
                      ":", where.line()));
}

void check_cuda(cudaError_t code, const char* call, int rank, int size,
                std::source_location where = std::source_location::current()) {
  if (code != cudaSuccess) fail(call, cudaGetErrorString(code), rank, size, where);
}
#define VAX_CUDA(rank, size, call) check_cuda((call), #call, (rank), (size))

class CudaEvent {
 public:
  CudaEvent(int rank, int size) {
    VAX_CUDA(rank, size, cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  }
  CudaEvent(CudaEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~CudaEvent() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};
static_assert(std::is_nothrow_move_constructible_v<CudaEvent>);

ncclDataType_t nccl_type(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return ncclFloat32;
    case DataType::kFloat64:
      return ncclFloat64;
    case DataType::kBFloat16:
      return ncclBfloat16;
    case DataType::kInt32:
      return ncclInt32;
    case DataType::kInt64:
      return ncclInt64;
    case DataType::kUInt8:
      return ncclUint8;
  }
  VAX_CHECK(false, "unknown data type ", static_cast<int>(type));
}

ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return ncclSum;
    case ReduceOp::kMax:
      return ncclMax;
    case ReduceOp::kMin:
      return ncclMin;
  }
  VAX_CHECK(false, "unknown reduction ", static_cast<int>(op));
}

// A symbol of one NCCL resolved to another would fail in ways that are hard to read.
void check_version(int rank, int size) {
  int loaded = 0;
  ncclGetVersion(&loaded);
  if (loaded / 10000 != NCCL_VERSION_CODE / 10000 || loaded < NCCL_VERSION_CODE)
    throw CommError(cat("rank ", rank, "/", size, ": NCCL ", loaded, " is loaded, compiled for ",
                        NCCL_VERSION_CODE, ": make the program find the NCCL of its LibTorch"));
}

// The NCCL communicator, its stream and its counters.
class Group {
 public:
  Group(const Communicator& bootstrap, int device);
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group();

  // Carries a call through to its end: started, or CommError with the communicator aborted.
  void check(ncclResult_t code, const char* call,
             std::source_location where = std::source_location::current());
  // Finds failures of operations that have been started.
  void check_async(const char* call, std::source_location where = std::source_location::current());
  void select_device() const { VAX_CUDA(rank, size, cudaSetDevice(device)); }

  const int rank, size, device;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  void* barrier_word = nullptr;  // one int32 on the device
  const std::shared_ptr<CallGroup> calls;
  CollectiveStatistics statistics;

 private:
  void connect(const Communicator& bootstrap);
  void release_memory() noexcept;
  void abort() noexcept;
};

#define VAX_NCCL(group, call) (group).check((call), #call)

Group::Group(const Communicator& bootstrap, int the_device)
    : rank(bootstrap.rank()),
      size(bootstrap.size()),
      device(the_device),
      calls(bootstrap.make_call_group("nccl")) {
  check_version(rank, size);
  try {
    select_device();
    VAX_CUDA(rank, size, cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    VAX_CUDA(rank, size, cudaMalloc(&barrier_word, sizeof(int32_t)));
    VAX_CUDA(rank, size, cudaMemset(barrier_word, 0, sizeof(int32_t)));
    connect(bootstrap);
  } catch (...) {
    abort();
    release_memory();
    throw;
  }
}

void Group::connect(const Communicator& bootstrap) {
  const Call call = Call::blocking(calls, "ncclCommInitRankConfig");
  ncclUniqueId id{};
  if (rank == 0 && ncclGetUniqueId(&id) != ncclSuccess)
    fail("ncclGetUniqueId", ncclGetLastError(nullptr), rank, size, std::source_location::current());
  const std::string text =
      bootstrap.broadcast_text(std::string(id.internal, sizeof(id.internal)), 0);
  std::memcpy(id.internal, text.data(), sizeof(id.internal));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  VAX_NCCL(*this, ncclCommInitRankConfig(&comm, size, id, rank, &config));
}

// Orderly when all is well; the others then come here too. An exception in flight means that they
// may not.
Group::~Group() {
  try {
    if (comm != nullptr && std::uncaught_exceptions() == 0) {
      select_device();
      VAX_NCCL(*this, ncclCommFinalize(comm));
      ncclCommDestroy(std::exchange(comm, nullptr));
    }
  } catch (const std::exception& error) {
    log::error(error.what());
  }
  abort();
  release_memory();
}

void Group::release_memory() noexcept {
  if (barrier_word != nullptr) cudaFree(std::exchange(barrier_word, nullptr));
  if (stream != nullptr) cudaStreamDestroy(std::exchange(stream, nullptr));
}

void Group::abort() noexcept {
  if (comm != nullptr) ncclCommAbort(std::exchange(comm, nullptr));
}

void Group::check(ncclResult_t code, const char* call, std::source_location where) {
  while (code == ncclInProgress) {
    std::this_thread::sleep_for(kPollInterval);
    const ncclResult_t asked = ncclCommGetAsyncError(comm, &code);
    if (asked != ncclSuccess) code = asked;
  }
  if (code == ncclSuccess) return;
  const std::string reason = cat(ncclGetErrorString(code), ": ", ncclGetLastError(comm));
  abort();
  fail(call, reason.c_str(), rank, size, where);
}

void Group::check_async(const char* call, std::source_location where) {
  if (comm == nullptr) fail(call, "the communicator was aborted", rank, size, where);
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm, &state);
  check(asked == ncclSuccess ? state : asked, call, where);
}

class NcclOperation final : public Work::State {
 public:
  NcclOperation(std::shared_ptr<Group> group, const char* name, int64_t count, int64_t num_bytes,
                cudaStream_t consumer)
      : group_(std::move(group)),
        name_(name),
        call_(group_->calls, name, count, num_bytes),
        consumer_(consumer),
        done_(group_->rank, group_->size) {}

  // What has been put on the group's stream so far is this operation.
  void mark() {
    VAX_CUDA(group_->rank, group_->size, cudaEventRecord(done_.get(), group_->stream));
  }

  // Complete for the host; the consumer's stream is ordered behind it as well.
  bool test() override {
    group_->check_async(name_);
    const cudaError_t code = cudaEventQuery(done_.get());
    if (code == cudaErrorNotReady) return false;
    check_cuda(code, name_, group_->rank, group_->size);
    call_.done();
    return true;
  }

  void wait() override {
    group_->check_async(name_);
    group_->select_device();
    VAX_CUDA(group_->rank, group_->size, cudaStreamWaitEvent(consumer_, done_.get(), 0));
  }

 private:
  std::shared_ptr<Group> group_;
  const char* name_;
  // Its end is when it is known to be complete, or the Work's: the host does not wait for streams.
  Call call_;
  cudaStream_t consumer_;
  CudaEvent done_;
};

class NcclCollectives final : public Collectives {
 public:
  NcclCollectives(const Communicator& bootstrap, int device)
      : group_(std::make_shared<Group>(bootstrap, device)) {}

  int rank() const override { return group_->rank; }
  int size() const override { return group_->size; }
  std::string name() const override { return "nccl"; }

  Work all_gather(const void* send, void* recv, int64_t count, DataType type,
                  Stream stream) override {
    check_count("all_gather", count);
    return run({"ncclAllGather", size() * count, type, gather_bytes(count, type, size())}, stream,
               [&] {
                 return ncclAllGather(send, recv, static_cast<size_t>(count), nccl_type(type),
                                      group_->comm, group_->stream);
               });
  }
  Work reduce_scatter(void* send, void* recv, int64_t count, DataType type, ReduceOp op,
                      Stream stream) override {
    check_count("reduce_scatter", count);
    return run({"ncclReduceScatter", size() * count, type, gather_bytes(count, type, size())},
               stream, [&] {
                 return ncclReduceScatter(send, recv, static_cast<size_t>(count), nccl_type(type),
                                          nccl_op(op), group_->comm, group_->stream);
               });
  }
  Work all_reduce(void* data, int64_t count, DataType type, ReduceOp op, Stream stream) override {
    check_count("all_reduce", count);
    return run({"ncclAllReduce", count, type, all_reduce_bytes(count, type, size())}, stream, [&] {
      return ncclAllReduce(data, data, static_cast<size_t>(count), nccl_type(type), nccl_op(op),
                           group_->comm, group_->stream);
    });
  }
  Work broadcast(void* data, int64_t count, DataType type, int root, Stream stream) override {
    check_broadcast(count, root, size());
    return run({"ncclBroadcast", count, type, broadcast_bytes(count, type, size())}, stream, [&] {
      return ncclBroadcast(data, data, static_cast<size_t>(count), nccl_type(type), root,
                           group_->comm, group_->stream);
    });
  }
  void barrier() override;

  CollectiveStatistics statistics() const override { return group_->statistics; }

 private:
  struct Operation {
    const char* name;  // of the NCCL function
    int64_t count;     // elements of the whole operation
    DataType type;
    int64_t sent_bytes;
  };
  template <typename Start>
  Work run(const Operation& operation, Stream stream, Start start);

  std::shared_ptr<Group> group_;
};

// The group's stream first waits for what the caller's stream holds: the operands.
template <typename Start>
Work NcclCollectives::run(const Operation& operation, Stream stream, Start start) {
  Group& group = *group_;
  group.check_async(operation.name);
  group.select_device();
  ++group.statistics.num_calls;
  group.statistics.num_bytes += operation.sent_bytes;
  const cudaStream_t caller = static_cast<cudaStream_t>(stream.handle);
  const CudaEvent ready(group.rank, group.size);
  VAX_CUDA(group.rank, group.size, cudaEventRecord(ready.get(), caller));
  VAX_CUDA(group.rank, group.size, cudaStreamWaitEvent(group.stream, ready.get(), 0));
  const int64_t num_bytes = operation.count * static_cast<int64_t>(size_of(operation.type));
  auto state =
      std::make_unique<NcclOperation>(group_, operation.name, operation.count, num_bytes, caller);
  group.check(start(), operation.name);
  state->mark();
  return Work(std::move(state));
}

void NcclCollectives::barrier() {
  const Stopwatch watch;
  const Call call = Call::blocking(group_->calls, "barrier");
  Work work =
      all_reduce(group_->barrier_word, 1, DataType::kInt32, ReduceOp::kSum, {group_->stream});
  while (!work.test()) std::this_thread::sleep_for(kPollInterval);
  group_->statistics.blocked_s += watch.elapsed_s();
}

}  // namespace

std::unique_ptr<Collectives> make_nccl_collectives(const Communicator& bootstrap, int device) {
  return std::make_unique<NcclCollectives>(bootstrap, device);
}

}  // namespace vax::dist
