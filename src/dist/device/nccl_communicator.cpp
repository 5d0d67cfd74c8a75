#include "dist/device/nccl_communicator.h"

#include <dlfcn.h>
#include <link.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <thread>
#include <utility>

#include "base/error.h"
#include "dist/device/cuda_handle.h"

namespace vax::dist {
namespace {

constexpr std::chrono::microseconds kPollInterval{50};
// Calls return at once; one that does not is stuck in NCCL, and abort is what frees it.
constexpr std::chrono::seconds kAbortPatience{1};
constexpr int kMajorUnit = 10000;  // of version codes

using Objects = std::map<uintptr_t, std::string>;  // loaded at, path

int add_if_nccl(dl_phdr_info* info, size_t, void* objects) {
  const std::string path = info->dlpi_name == nullptr ? "" : info->dlpi_name;
  if (std::filesystem::path(path).filename().string().starts_with("libnccl.so"))
    static_cast<Objects*>(objects)->emplace(info->dlpi_addr, path);
  return 0;
}

// Those named so, and the one whose functions are called here.
Objects nccl_objects() {
  Objects objects;
  dl_iterate_phdr(&add_if_nccl, &objects);
  Dl_info own{};
  if (dladdr(reinterpret_cast<void*>(&ncclGetVersion), &own) != 0)
    objects.emplace(reinterpret_cast<uintptr_t>(own.dli_fbase), own.dli_fname);
  return objects;
}

}  // namespace

void check_nccl_library() {
  int loaded = 0;
  ncclGetVersion(&loaded);
  if (loaded / kMajorUnit != NCCL_VERSION_CODE / kMajorUnit || loaded < NCCL_VERSION_CODE)
    throw CommError(cat("NCCL ", loaded, " is loaded, compiled for ", NCCL_VERSION_CODE,
                        ": make the program find the NCCL of its LibTorch"));
  const Objects objects = nccl_objects();
  if (objects.size() == 1) return;
  std::string paths;
  for (const auto& [address, path] : objects) paths += cat(paths.empty() ? "" : ", ", path);
  throw CommError(cat("this process has ", objects.size(), " copies of NCCL (", paths,
                      "), expected one: make the program find the NCCL of its LibTorch"));
}

void NcclCommunicator::connect(const Communicator& ranks) {
  Call call = Call::blocking(ranks.make_call_group("nccl bootstrap"), "ncclCommInitRankConfig");
  ncclUniqueId id{};
  // A rank that fails must not leave the others in the broadcast: the id is empty then.
  const bool has_id = ranks.rank() != 0 || ncclGetUniqueId(&id) == ncclSuccess;
  const std::string own = has_id ? std::string(id.internal, sizeof(id.internal)) : std::string();
  const std::string text = ranks.broadcast_text(own, 0);
  if (text.size() != sizeof(id.internal))
    throw CommError(cat("ncclGetUniqueId failed on rank 0 of ", ranks.size()));
  std::memcpy(id.internal, text.data(), sizeof(id.internal));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  run("ncclCommInitRankConfig", call, [&](ncclComm_t) {
    return ncclCommInitRankConfig(&comm_, ranks.size(), id, ranks.rank(), &config);
  });
}

void NcclCommunicator::close() {
  Call none;
  run("ncclCommFinalize", none, [](ncclComm_t comm) { return ncclCommFinalize(comm); });
  const std::lock_guard lock(mutex_);
  if (comm_ != nullptr) ncclCommDestroy(std::exchange(comm_, nullptr));
}

// Goes on without the mutex when it must: the process ends then.
void NcclCommunicator::abort() noexcept {
  const std::unique_lock lock(mutex_, kAbortPatience);
  if (comm_ != nullptr) ncclCommAbort(std::exchange(comm_, nullptr));
}

void NcclCommunicator::run(const char* name, Call& call,
                           const std::function<ncclResult_t(ncclComm_t)>& start,
                           std::source_location where) {
  ncclResult_t code = ncclSuccess;
  {
    const std::lock_guard lock(mutex_);
    code = start(comm_);
  }
  if (code == ncclInProgress) call.wait_begins();
  while (code == ncclInProgress) {
    std::this_thread::sleep_for(kPollInterval);
    code = state();
  }
  call.wait_ends();
  if (code != ncclSuccess) fail(name, code, where);
}

void NcclCommunicator::check(std::source_location where) {
  const ncclResult_t code = state();
  if (code != ncclSuccess && code != ncclInProgress) fail("an operation of NCCL", code, where);
}

// An aborted one has no state: ncclInvalidUsage.
ncclResult_t NcclCommunicator::state() {
  const std::lock_guard lock(mutex_);
  if (comm_ == nullptr) return ncclInvalidUsage;
  ncclResult_t code = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm_, &code);
  return asked == ncclSuccess ? code : asked;
}

void NcclCommunicator::fail(const char* name, ncclResult_t code, std::source_location where) {
  registry_.hold_if_ending();
  std::string reason = "the communicator was aborted";
  {
    const std::lock_guard lock(mutex_);
    if (comm_ != nullptr) reason = cat(ncclGetErrorString(code), ": ", ncclGetLastError(comm_));
  }
  abort();
  fail_device_call(name, reason, where);
}

void* NcclCommunicator::register_memory(void* data, size_t num_bytes) {
  const std::lock_guard lock(mutex_);
  void* handle = nullptr;
  if (comm_ == nullptr || ncclCommRegister(comm_, data, num_bytes, &handle) != ncclSuccess)
    return nullptr;
  return handle;
}

void NcclCommunicator::deregister_memory(void* handle) {
  const std::lock_guard lock(mutex_);
  if (comm_ != nullptr) ncclCommDeregister(comm_, handle);
}

}  // namespace vax::dist
