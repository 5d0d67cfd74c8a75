// The functions of NCCL, and which communicators and registrations live.
#include <nccl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "internal.h"
#include "nccl_member.h"
#include "standin.h"
#include "stream.h"

struct ncclComm {
  std::shared_ptr<standin::Member> member;
  std::string last_error = "the stand-in was told to fail";
};

namespace standin {
namespace {

// What the real one needs for its first connections.
constexpr std::chrono::milliseconds kFirstOperation{2};

struct Controls {
  std::mutex mutex;  // guards what follows
  int version = NCCL_VERSION_CODE;
  int64_t until_failure = 0;  // collectives; 0: none fails
  ncclResult_t failure = ncclSuccess, init_failure = ncclSuccess;
  bool refuses_memory = false;
  std::set<ncclComm_t> communicators;
  std::map<void*, std::pair<ncclComm_t, void*>> registrations;  // handle: whose, memory
  int64_t num_aborted = 0;
};

Controls& controls() {
  static Controls* const state = new Controls;
  return *state;
}

std::shared_ptr<Member> member_of(ncclComm_t comm) {
  const std::lock_guard lock(controls().mutex);
  if (!controls().communicators.contains(comm)) die("a communicator is used that does not live");
  return comm->member;
}

void remove(ncclComm_t comm, bool is_abort) {
  const std::lock_guard lock(controls().mutex);
  Controls& state = controls();
  if (state.communicators.erase(comm) == 0) die("a communicator is destroyed twice");
  const auto is_its = [comm](const auto& entry) { return entry.second.first == comm; };
  if (std::erase_if(state.registrations, is_its) > 0 && !is_abort)
    die("a communicator is destroyed while memory is registered with it");
  state.num_aborted += is_abort;
  delete comm;
}

// That of the collective that starts now.
ncclResult_t next_failure() {
  const std::lock_guard lock(controls().mutex);
  Controls& state = controls();
  return state.until_failure > 0 && --state.until_failure == 0 ? state.failure : ncclSuccess;
}

ncclResult_t start(ncclComm_t comm, const Operation& operation, cudaStream_t stream) {
  const std::shared_ptr<Member> member = member_of(comm);
  if (const ncclResult_t state = member->state(); state != ncclSuccess)
    return state == ncclInProgress ? ncclInvalidUsage : state;
  check_is_device_memory(operation.send, operation.count);
  check_is_device_memory(operation.recv, operation.count);
  ++member->under_way;
  const auto put = [member, operation, stream, failure = next_failure()] {
    enqueue(stream, [=] {
      member->run(operation, failure);
      --member->under_way;
    });
  };
  if (member->has_run.exchange(true)) {
    put();
    return ncclSuccess;
  }
  member->in_progress = true;
  std::thread([member, put] {
    std::this_thread::sleep_for(kFirstOperation);
    put();
    member->in_progress = false;
  }).detach();
  return ncclInProgress;
}

}  // namespace

void set_version(int version) {
  const std::lock_guard lock(controls().mutex);
  controls().version = version;
}

void fail_operation(int64_t nth, ncclResult_t result) {
  const std::lock_guard lock(controls().mutex);
  controls().until_failure = nth;
  controls().failure = result;
}

void fail_init(ncclResult_t result) {
  const std::lock_guard lock(controls().mutex);
  controls().init_failure = result;
}

void refuse_memory(bool refuse) {
  const std::lock_guard lock(controls().mutex);
  controls().refuses_memory = refuse;
}

Counts counts() {
  const RuntimeCounts runtime = runtime_counts();
  const std::lock_guard lock(controls().mutex);
  return {.streams = runtime.streams,
          .events = runtime.events,
          .allocations = runtime.allocations,
          .communicators = static_cast<int64_t>(controls().communicators.size()),
          .registrations = static_cast<int64_t>(controls().registrations.size()),
          .aborted = controls().num_aborted};
}

}  // namespace standin

using standin::controls;
using standin::Kind;

ncclResult_t ncclGetVersion(int* version) {
  const std::lock_guard lock(controls().mutex);
  *version = controls().version;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSystemError:
      return "unhandled system error";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInvalidUsage:
      return "invalid usage";
    default:
      return "another result";
  }
}

const char* ncclGetLastError(ncclComm_t comm) {
  standin::member_of(comm);
  return comm->last_error.c_str();
}

// The file stays open: the other ranks find it as long as this process lives.
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const int file = ::memfd_create("vax-standin", MFD_CLOEXEC);
  if (file < 0 || ::ftruncate(file, sizeof(standin::Block)) != 0) return ncclSystemError;
  std::snprintf(id->internal, sizeof(id->internal), "/proc/%d/fd/%d", ::getpid(), file);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (size > standin::kMaxRanks || config->blocking != 0) return ncclInvalidArgument;
  if (size > 1) standin::demand_watched_waits();
  auto member = std::make_shared<standin::Member>(rank, size);
  *comm = new ncclComm{.member = member};
  ncclResult_t failure = ncclSuccess;
  {
    const std::lock_guard lock(controls().mutex);
    controls().communicators.insert(*comm);
    failure = controls().init_failure;
  }
  const std::string path = id.internal;
  std::thread([member, path, failure] {
    if (failure != ncclSuccess) return member->fail(failure);
    member->init(path);
  }).detach();
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  *state = standin::member_of(comm)->state();
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  if (comm == nullptr) return ncclInvalidArgument;
  const auto member = standin::member_of(comm);
  if (member->under_way > 0) standin::die("a communicator is finalised while operations run");
  member->in_progress = true;
  std::thread([member] {
    if (!member->meet()) return;
    member->finalized = true;
    member->in_progress = false;
  }).detach();
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (!standin::member_of(comm)->finalized) standin::die("a communicator is not finalised");
  standin::remove(comm, false);
  return ncclSuccess;
}

// Waits for the streams to let go, as kernels do.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const auto member = standin::member_of(comm);
  if (std::getenv("STANDIN_TELLS_ABORTS") != nullptr)
    std::fprintf(stderr, "stand-in of CUDA and NCCL: a communicator is aborted\n");
  member->aborted = true;
  while (member->under_way > 0) std::this_thread::sleep_for(standin::kLook);
  standin::remove(comm, true);
  return ncclSuccess;
}

ncclResult_t ncclMemAlloc(void** memory, size_t num_bytes) {
  {
    const std::lock_guard lock(controls().mutex);
    if (controls().refuses_memory) return ncclUnhandledCudaError;
  }
  *memory = standin::allocate(num_bytes, false);
  return *memory == nullptr ? ncclUnhandledCudaError : ncclSuccess;
}

ncclResult_t ncclMemFree(void* memory) {
  {
    const std::lock_guard lock(controls().mutex);
    for (const auto& [handle, registration] : controls().registrations)
      if (registration.second == memory) standin::die("memory is freed that is registered");
  }
  standin::release(memory);
  return ncclSuccess;
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void* memory, size_t num_bytes,
                              void** handle) {
  standin::member_of(comm);
  if (!standin::is_device_memory(memory, num_bytes)) return ncclInvalidArgument;
  static std::atomic<uintptr_t> num_handles = 0;
  *handle = reinterpret_cast<void*>(++num_handles);
  const std::lock_guard lock(controls().mutex);
  controls().registrations[*handle] = {comm, memory};
  return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t comm, void* handle) {
  standin::member_of(comm);
  const std::lock_guard lock(controls().mutex);
  if (controls().registrations.erase(handle) == 0) standin::die("a registration ends twice");
  return ncclSuccess;
}

ncclResult_t ncclAllGather(const void* send, void* recv, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return standin::start(comm, {Kind::kAllGather, send, recv, count, type, ncclSum, 0}, stream);
}

ncclResult_t ncclReduceScatter(const void* send, void* recv, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return standin::start(comm, {Kind::kReduceScatter, send, recv, count, type, op, 0}, stream);
}

ncclResult_t ncclAllReduce(const void* send, void* recv, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return standin::start(comm, {Kind::kAllReduce, send, recv, count, type, op, 0}, stream);
}

ncclResult_t ncclBroadcast(const void* send, void* recv, size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
  return standin::start(comm, {Kind::kBroadcast, send, recv, count, type, ncclSum, root}, stream);
}
