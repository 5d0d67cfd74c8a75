// A compute stream of tests of device groups: with the stand-in, and with a device.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <thread>
#include <utility>

#include "dist/device/device_group.h"

namespace vax::testing {

inline void check(cudaError_t code) {
  if (code != cudaSuccess) throw std::runtime_error(cudaGetErrorString(code));
}

// A stream that runs beside the host.
class ComputeStream {
 public:
  ComputeStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ComputeStream(const ComputeStream&) = delete;
  ComputeStream& operator=(const ComputeStream&) = delete;
  ~ComputeStream() {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  dist::DeviceContext context() const { return {.index = 0, .compute_stream = stream_}; }
  cudaStream_t get() const { return stream_; }

  // Puts `work` on the stream: host code that stands for a kernel.
  void run(std::function<void()> work) {
    auto owned = std::make_unique<std::function<void()>>(std::move(work));
    const cudaHostFn_t call = [](void* data) {
      const std::unique_ptr<std::function<void()>> function(
          static_cast<std::function<void()>*>(data));
      (*function)();
    };
    check(cudaLaunchHostFunc(stream_, call, owned.release()));
  }
  void pause(std::chrono::milliseconds time) {
    run([time] { std::this_thread::sleep_for(time); });
  }

 private:
  cudaStream_t stream_ = nullptr;
};

inline std::shared_ptr<void> device_memory(int64_t num_bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, static_cast<size_t>(num_bytes)));
  return {memory, [](void* owned) { cudaFree(owned); }};
}

}  // namespace vax::testing
