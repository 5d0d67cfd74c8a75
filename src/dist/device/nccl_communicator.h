// Private to this folder: one NCCL communicator. Invariants that are easy to break:
// - it is non-blocking: calls may return ncclInProgress, and only ncclCommGetAsyncError tells when
//   they are done. A failure that is never asked for is a hang;
// - after an error it is aborted, never destroyed: destroying waits for the others;
// - abort() may come from the watchdog's thread at any time: every use of the handle holds the
//   mutex, and what follows an abort says so.
// And which NCCL this process has: LibTorch brings one of its own, and NCCL keeps state per copy.
// Two in one process, or headers that are newer than the library, fail in ways that are hard to
// read.
#pragma once

#include <nccl.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <source_location>
#include <string>

#include "dist/comm/communicator.h"
#include "dist/comm/device_registry.h"

namespace vax::dist {

// THROWS CommError: the NCCL that is loaded is another major version or older than what this was
// compiled for, or there are several.
void check_nccl_library();

class NcclCommunicator {
 public:
  explicit NcclCommunicator(DeviceRegistry& registry) : registry_(registry) {}
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;
  ~NcclCommunicator() { abort(); }

  // COLLECTIVE over `ranks`, which carries NCCL's id. BLOCKS host. REQUIRES that the device is
  // selected. THROWS CommError.
  void connect(const Communicator& ranks);
  // COLLECTIVE: what has been started must be done. BLOCKS host. THROWS CommError.
  void close();
  // Any thread. Kernels that wait for other ranks end. Again without effect.
  void abort() noexcept;
  bool is_open() const { return comm_ != nullptr; }

  // Runs `start` and carries it through until NCCL has done it (for a collective: until it is on
  // its stream). `call`: for the watchdog, when that takes a while. THROWS CommError; it is aborted
  // then.
  void run(const char* name, Call& call, const std::function<ncclResult_t(ncclComm_t)>& start,
           std::source_location where = std::source_location::current());
  // Finds failures of what has been started. THROWS CommError; it is aborted then.
  void check(std::source_location where = std::source_location::current());

  // For allocate(): the handle of the registration, null where NCCL takes none.
  void* register_memory(void* data, size_t num_bytes);
  void deregister_memory(void* handle);

 private:
  ncclResult_t state();
  [[noreturn]] void fail(const char* name, ncclResult_t code, std::source_location where);

  DeviceRegistry& registry_;
  std::timed_mutex mutex_;  // guards comm_
  ncclComm_t comm_ = nullptr;
};

}  // namespace vax::dist
