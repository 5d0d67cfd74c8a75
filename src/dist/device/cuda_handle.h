// Private to this folder: CUDA's handles as move-only classes, and its errors as CommError. A
// handle belongs to the device that was selected when it was made.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <source_location>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace vax::dist {

// "CALL failed (REASON) at FILE:LINE"; of `call` the part before its arguments.
[[noreturn]] void fail_device_call(std::string_view call, const std::string& reason,
                                   std::source_location where);

void check_cuda(cudaError_t code, const char* call,
                std::source_location where = std::source_location::current());
#define VAX_CUDA(call) ::vax::dist::check_cuda((call), #call)

// For synchronisation only: no timing.
class CudaEvent {
 public:
  CudaEvent();
  CudaEvent(CudaEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~CudaEvent();

  void record(cudaStream_t stream);
  bool is_done() const;                   // true before the first record() too
  void block(cudaStream_t stream) const;  // until what was last recorded is done; not the host

 private:
  cudaEvent_t event_ = nullptr;
};
static_assert(std::is_nothrow_move_constructible_v<CudaEvent>);
static_assert(std::is_nothrow_move_assignable_v<CudaEvent>);

// Independent of the legacy default stream, and before others where streams compete: what other
// ranks wait for is short.
class CudaStream {
 public:
  CudaStream();
  CudaStream(CudaStream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  CudaStream& operator=(CudaStream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~CudaStream();
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};
static_assert(std::is_nothrow_move_constructible_v<CudaStream>);
static_assert(std::is_nothrow_move_assignable_v<CudaStream>);

struct CudaRelease {
  bool is_pinned = false;  // host memory
  void operator()(void* memory) const noexcept;
};
// Its release may wait for the device.
using CudaMemory = std::unique_ptr<void, CudaRelease>;
CudaMemory device_memory(int64_t num_bytes);
CudaMemory pinned_memory(int64_t num_bytes);

}  // namespace vax::dist
