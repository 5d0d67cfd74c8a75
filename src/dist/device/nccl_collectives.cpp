// Each group has its own communicator and its own stream, on which its operations follow each
// other; groups meet on the consumers' streams only. Invariants that are easy to break:
// - an operation counts as started once NCCL has put it on the stream: only then does an event that
//   is recorded behind it stand for it;
// - memory of allocate() is given back after the last operation and everything that the compute
//   stream holds, and before the communicator goes, whose registration it is.
// Works and memory share ownership of the group, so they may outlive the Collectives.
#include "dist/device/nccl_collectives.h"

#include <nccl.h>

#include <exception>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "dist/comm/call_accounting.h"
#include "dist/device/cuda_queue.h"
#include "dist/device/nccl_communicator.h"
#include "dist/device/nccl_library.h"

namespace vax::dist {
namespace {

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

class Group final : public DeviceMember {
 public:
  Group(const Communicator& ranks, const DeviceContext& device, const std::string& purpose);
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() override;

  void poll() override;
  DeviceCall* oldest_call() override { return queue.oldest(); }
  void abort() noexcept override { nccl.abort(); }

  void release_memory(void* data, void* registration) noexcept;
  bool unwinds() const { return std::uncaught_exceptions() > exceptions_before_; }

  CudaQueue queue;
  CudaStream stream;
  CudaMemory barrier_byte;
  NcclCommunicator nccl;

 private:
  const int exceptions_before_;  // in flight when this was made
};

Group::Group(const Communicator& ranks, const DeviceContext& device, const std::string& purpose)
    : queue(ranks, device, purpose),
      barrier_byte(device_memory(1)),
      nccl(*queue.services->devices),
      exceptions_before_(std::uncaught_exceptions()) {
  queue.services->devices->add(*this);
  try {
    nccl.connect(ranks);
  } catch (...) {
    queue.services->devices->remove(*this);
    throw;
  }
}

// Orderly when all is well; the others then come here too. An exception in flight means that they
// may not.
Group::~Group() {
  try {
    if (nccl.is_open() && !unwinds()) {
      queue.wait_until_idle();
      nccl.close();
    }
  } catch (const std::exception& error) {
    log::error(error.what());
  }
  nccl.abort();
  queue.services->devices->remove(*this);
}

void Group::poll() {
  nccl.check();
  queue.drop_done();
}

// Where it is not known that nothing uses the memory any more, it is not given back: the process
// ends soon.
void Group::release_memory(void* data, void* registration) noexcept {
  try {
    if (unwinds()) return nccl.abort();
    queue.wait_until_idle();
    if (registration != nullptr) nccl.deregister_memory(registration);
    ncclMemFree(data);
  } catch (const std::exception& error) {
    log::error(cat("memory of a failed group is not released: ", error.what()));
  }
}

class NcclOperation final : public Work::State {
 public:
  NcclOperation(std::shared_ptr<Group> group, std::shared_ptr<CudaCall> call)
      : group_(std::move(group)), call_(std::move(call)) {}

  // Done for the host: what is put on any stream from now on comes after it.
  bool test() override {
    group_->poll();
    return call_->done.is_done();
  }
  void wait() override {
    group_->poll();
    group_->queue.select_device();
    call_->done.block(call_->consumer);
  }

 private:
  std::shared_ptr<Group> group_;
  std::shared_ptr<CudaCall> call_;
};

class NcclCollectives final : public Collectives {
 public:
  explicit NcclCollectives(std::shared_ptr<Group> group) : group_(std::move(group)) {}

  int rank() const override { return group_->queue.rank; }
  int size() const override { return group_->queue.size; }
  std::string name() const override { return "nccl"; }
  bool orders_stream() const override { return true; }
  std::shared_ptr<void> allocate(int64_t num_bytes) override;

  Work all_gather(const void* send, void* recv, int64_t count, DataType type,
                  Stream stream) override;
  Work reduce_scatter(void* send, void* recv, int64_t count, DataType type, ReduceOp op,
                      Stream stream) override;
  Work all_reduce(void* data, int64_t count, DataType type, ReduceOp op, Stream stream) override;
  Work broadcast(void* data, int64_t count, DataType type, int root, Stream stream) override;
  void barrier() override;

  CollectiveStatistics statistics() const override { return group_->queue.statistics; }

 private:
  struct Operation {
    const char* name;  // of the call
    const char* function;
    int64_t count;  // elements of the whole operation
    DataType type;
    int64_t sent_bytes;
  };
  template <typename Start>
  Work run(const Operation& operation, Stream stream, Start start);

  std::shared_ptr<Group> group_;
};

// The group's stream first waits for what the consumer's holds: the operands.
template <typename Start>
Work NcclCollectives::run(const Operation& operation, Stream stream, Start start) {
  Group& group = *group_;
  group.poll();
  const std::shared_ptr<CudaCall> call = group.queue.start(
      operation.name, operation.count, operation.type, operation.sent_bytes, stream);
  call->ready.block(group.stream.get());
  group.nccl.run(operation.function, call->call,
                 [&](ncclComm_t comm) { return start(comm, group.stream.get()); });
  group.queue.submit(*call, group.stream.get());
  return Work(std::make_unique<NcclOperation>(group_, call));
}

Work NcclCollectives::all_gather(const void* send, void* recv, int64_t count, DataType type,
                                 Stream stream) {
  check_count("all_gather", count);
  return run(
      {"all_gather", "ncclAllGather", size() * count, type, gather_bytes(count, type, size())},
      stream, [&](ncclComm_t comm, cudaStream_t on) {
        return ncclAllGather(send, recv, static_cast<size_t>(count), nccl_type(type), comm, on);
      });
}

Work NcclCollectives::reduce_scatter(void* send, void* recv, int64_t count, DataType type,
                                     ReduceOp op, Stream stream) {
  check_count("reduce_scatter", count);
  return run({"reduce_scatter", "ncclReduceScatter", size() * count, type,
              gather_bytes(count, type, size())},
             stream, [&](ncclComm_t comm, cudaStream_t on) {
               return ncclReduceScatter(send, recv, static_cast<size_t>(count), nccl_type(type),
                                        nccl_op(op), comm, on);
             });
}

Work NcclCollectives::all_reduce(void* data, int64_t count, DataType type, ReduceOp op,
                                 Stream stream) {
  check_count("all_reduce", count);
  return run({"all_reduce", "ncclAllReduce", count, type, all_reduce_bytes(count, type, size())},
             stream, [&](ncclComm_t comm, cudaStream_t on) {
               return ncclAllReduce(data, data, static_cast<size_t>(count), nccl_type(type),
                                    nccl_op(op), comm, on);
             });
}

Work NcclCollectives::broadcast(void* data, int64_t count, DataType type, int root, Stream stream) {
  check_broadcast(count, root, size());
  return run({"broadcast", "ncclBroadcast", count, type, broadcast_bytes(count, type, size())},
             stream, [&](ncclComm_t comm, cudaStream_t on) {
               return ncclBroadcast(data, data, static_cast<size_t>(count), nccl_type(type), root,
                                    comm, on);
             });
}

// Without elements nothing would be exchanged: one byte of each rank.
void NcclCollectives::barrier() {
  void* const byte = group_->barrier_byte.get();
  Work work = run({"barrier", "ncclAllReduce", 0, DataType::kUInt8, 0}, {},
                  [&](ncclComm_t comm, cudaStream_t on) {
                    return ncclAllReduce(byte, byte, 1, ncclUint8, ncclMax, comm, on);
                  });
  group_->queue.wait_until([&] { return work.test(); });
}

std::shared_ptr<void> NcclCollectives::allocate(int64_t num_bytes) {
  VAX_CHECK(num_bytes >= 0, "allocation of ", num_bytes, " bytes");
  void* data = nullptr;
  group_->queue.select_device();
  if (num_bytes == 0 || ncclMemAlloc(&data, static_cast<size_t>(num_bytes)) != ncclSuccess)
    return nullptr;
  void* const handle = group_->nccl.register_memory(data, static_cast<size_t>(num_bytes));
  return {data, [group = group_, handle](void* memory) { group->release_memory(memory, handle); }};
}

}  // namespace

std::unique_ptr<Collectives> make_nccl_collectives(const Communicator& ranks,
                                                   const DeviceContext& device,
                                                   const std::string& purpose) {
  check_nccl_library();
  return std::make_unique<NcclCollectives>(std::make_shared<Group>(ranks, device, purpose));
}

}  // namespace vax::dist
