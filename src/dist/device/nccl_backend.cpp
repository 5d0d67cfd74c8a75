// Each group has its own communicator and its own stream, on which its operations follow each
// other; groups meet on the consumers' streams only. Invariants that are easy to break:
// - an operation counts as started once NCCL has put it on the stream: only then does an event that
//   is recorded behind it stand for it;
// - memory of allocate() is given back after the last operation and everything that the compute
//   stream holds, and before the communicator goes, whose registration it is.
#include "dist/device/nccl_backend.h"

#include <nccl.h>

#include <exception>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "dist/device/cuda_group.h"
#include "dist/device/nccl_communicator.h"

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

class Group final : public CudaGroup {
 public:
  Group(const Communicator& ranks, const DeviceContext& device);
  ~Group() override;

  void poll() override;
  void abort() noexcept override { nccl.abort(); }

  void release_memory(void* data, void* registration) noexcept;

  CudaStream stream;
  CudaMemory barrier_byte;
  NcclCommunicator nccl;
};

Group::Group(const Communicator& ranks, const DeviceContext& the_device)
    : CudaGroup(ranks, the_device), barrier_byte(device_memory(1)), nccl(*devices) {
  devices->add(*this);
  try {
    nccl.connect(ranks);
  } catch (...) {
    devices->remove(*this);
    throw;
  }
}

// Orderly when all is well; the others then come here too. An exception in flight means that they
// may not.
Group::~Group() {
  try {
    if (nccl.is_open() && !unwinds()) {
      wait_until_idle();
      nccl.close();
    }
  } catch (const std::exception& error) {
    log::error(error.what());
  }
  nccl.abort();
  devices->remove(*this);
}

void Group::poll() {
  nccl.check();
  drop_done();
}

// Where it is not known that nothing uses the memory any more, it is not given back: the process
// ends soon.
void Group::release_memory(void* data, void* registration) noexcept {
  try {
    if (unwinds()) return nccl.abort();
    wait_until_idle();
    if (registration != nullptr) nccl.deregister_memory(registration);
    ncclMemFree(data);
  } catch (const std::exception& error) {
    log::error(cat("memory of a failed group is not released: ", error.what()));
  }
}

class NcclBackend final : public Backend {
 public:
  explicit NcclBackend(std::shared_ptr<Group> group) : group_(std::move(group)) {}

  GroupTraits traits() const override {
    return {.name = "nccl",
            .rank = group_->rank,
            .size = group_->size,
            .orders_stream = true,
            .reduces_on_host = false};
  }
  double make_room() override { return group_->make_room(); }
  Work start(Operation operation) override;
  void barrier(Call call) override;
  std::shared_ptr<void> allocate(int64_t num_bytes) override;

 private:
  // `function` of NCCL, called by `start(comm, stream)`.
  template <typename Start>
  Work run(const char* function, Call call, Stream stream, Start start);

  const std::shared_ptr<Group> group_;
};

// The group's stream first waits for what the consumer's holds: the operands.
template <typename Start>
Work NcclBackend::run(const char* function, Call call, Stream stream, Start start) {
  Group& group = *group_;
  const std::shared_ptr<CudaCall> started = group.start(std::move(call), stream);
  started->ready.block(group.stream.get());
  group.nccl.run(function, started->call,
                 [&](ncclComm_t comm) { return start(comm, group.stream.get()); });
  group.submit(*started, group.stream.get());
  return make_work(group_, started);
}

Work NcclBackend::start(Operation o) {
  const size_t count = static_cast<size_t>(o.count);
  const ncclDataType_t type = nccl_type(o.type);
  switch (o.kind) {
    case Operation::Kind::kAllGather:
      return run("ncclAllGather", std::move(o.call), o.stream,
                 [&](ncclComm_t comm, cudaStream_t on) {
                   return ncclAllGather(o.send, o.recv, count, type, comm, on);
                 });
    case Operation::Kind::kReduceScatter:
      return run("ncclReduceScatter", std::move(o.call), o.stream,
                 [&](ncclComm_t comm, cudaStream_t on) {
                   return ncclReduceScatter(o.send, o.recv, count, type, nccl_op(o.op), comm, on);
                 });
    case Operation::Kind::kAllReduce:
      return run("ncclAllReduce", std::move(o.call), o.stream,
                 [&](ncclComm_t comm, cudaStream_t on) {
                   return ncclAllReduce(o.send, o.recv, count, type, nccl_op(o.op), comm, on);
                 });
    case Operation::Kind::kBroadcast:
      return run("ncclBroadcast", std::move(o.call), o.stream,
                 [&](ncclComm_t comm, cudaStream_t on) {
                   return ncclBroadcast(o.send, o.recv, count, type, o.root, comm, on);
                 });
  }
  VAX_CHECK(false, "unknown operation ", static_cast<int>(o.kind));
}

// Without elements nothing would be exchanged: one byte of each rank.
void NcclBackend::barrier(Call call) {
  void* const byte = group_->barrier_byte.get();
  Work work = run("ncclAllReduce", std::move(call), {}, [&](ncclComm_t comm, cudaStream_t on) {
    return ncclAllReduce(byte, byte, 1, ncclUint8, ncclMax, comm, on);
  });
  group_->devices->wait_until([&] { return work.test(); });
}

std::shared_ptr<void> NcclBackend::allocate(int64_t num_bytes) {
  void* data = nullptr;
  group_->select_device();
  if (num_bytes == 0 || ncclMemAlloc(&data, static_cast<size_t>(num_bytes)) != ncclSuccess)
    return nullptr;
  void* const handle = group_->nccl.register_memory(data, static_cast<size_t>(num_bytes));
  return {data, [group = group_, handle](void* memory) { group->release_memory(memory, handle); }};
}

}  // namespace

std::unique_ptr<Backend> make_nccl_backend(const Communicator& ranks, const DeviceContext& device) {
  check_nccl_library();
  return std::make_unique<NcclBackend>(std::make_shared<Group>(ranks, device));
}

}  // namespace vax::dist
