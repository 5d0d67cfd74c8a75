#include "dist/device/cuda_handle.h"

#include <filesystem>

#include "base/error.h"

namespace vax::dist {
void fail_device_call(std::string_view call, const std::string& reason,
                      std::source_location where) {
  throw CommError(cat(call.substr(0, call.find('(')), " failed (", reason, ") at ",
                      std::filesystem::path(where.file_name()).filename().string(), ":",
                      where.line()));
}

void check_cuda(cudaError_t code, const char* call, std::source_location where) {
  if (code != cudaSuccess) fail_device_call(call, cudaGetErrorString(code), where);
}

CudaEvent::CudaEvent() { VAX_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }

CudaEvent::~CudaEvent() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

void CudaEvent::record(cudaStream_t stream) { VAX_CUDA(cudaEventRecord(event_, stream)); }

bool CudaEvent::is_done() const {
  const cudaError_t code = cudaEventQuery(event_);
  if (code == cudaErrorNotReady) return false;
  check_cuda(code, "cudaEventQuery");
  return true;
}

void CudaEvent::block(cudaStream_t stream) const {
  VAX_CUDA(cudaStreamWaitEvent(stream, event_, 0));
}

CudaStream::CudaStream() {
  int lowest = 0, highest = 0;
  VAX_CUDA(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  VAX_CUDA(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, highest));
}

CudaStream::~CudaStream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void CudaRelease::operator()(void* memory) const noexcept {
  is_pinned ? cudaFreeHost(memory) : cudaFree(memory);
}

CudaMemory device_memory(int64_t num_bytes) {
  void* memory = nullptr;
  VAX_CUDA(cudaMalloc(&memory, static_cast<size_t>(num_bytes)));
  return CudaMemory(memory, CudaRelease{.is_pinned = false});
}

CudaMemory pinned_memory(int64_t num_bytes) {
  void* memory = nullptr;
  VAX_CUDA(cudaHostAlloc(&memory, static_cast<size_t>(num_bytes), cudaHostAllocDefault));
  return CudaMemory(memory, CudaRelease{.is_pinned = true});
}

}  // namespace vax::dist
