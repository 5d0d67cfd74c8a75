// The device by CUDA and LibTorch. One process uses one device; what it has chosen is LibTorch's
// current device and stream, kept here for threads that did not choose it.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <optional>
#include <utility>

#include "base/error.h"
#include "base/narrow.h"
#include "ops/device/runtime.h"

namespace vax::ops::device {
namespace {

std::optional<c10::cuda::CUDAStream>& selected() {
  static std::optional<c10::cuda::CUDAStream> stream;
  return stream;
}

c10::CachingDeviceAllocator::Stat held() {
  VAX_CHECK(is_selected());
  constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  return c10::cuda::CUDACachingAllocator::getDeviceStats(selected()->device_index())
      .allocated_bytes[kAll];
}

// All graphs use one pool: nothing in it outlives a replay, and replays never overlap.
c10::cuda::MempoolId_t shared_pool() {
  static const c10::cuda::MempoolId_t pool = at::cuda::graph_pool_handle();
  return pool;
}

class CapturedGraph final : public Graph {
 public:
  explicit CapturedGraph(const std::function<void()>& work) {
    // What ran before the capture has left its memory in the cache, where the graph cannot have it.
    c10::cuda::CUDACachingAllocator::emptyCache();
    // Other threads (a checkpoint's writer) may go on calling CUDA.
    graph_.capture_begin(shared_pool(), cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      end_failed_capture();
      throw;
    }
    graph_.capture_end();
  }
  void replay() override { graph_.replay(); }

 private:
  // The error that broke the capture is the one to report.
  void end_failed_capture() noexcept {
    try {
      graph_.capture_end();
      graph_.reset();
    } catch (const std::exception&) {
      cudaGetLastError();
    }
  }

  at::cuda::CUDAGraph graph_;
};

}  // namespace

bool takes(const at::Tensor& tensor) { return tensor.is_cuda(); }

int count() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  cudaGetLastError();  // no driver is an answer, not an error that the next call should report
  return error == cudaSuccess ? devices : 0;
}

std::string why_none() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  cudaGetLastError();
  return error == cudaSuccess ? "CUDA sees no device" : cudaGetErrorString(error);
}

void select(int index) {
  VAX_CHECK(!is_selected(), "a device is selected twice");
  try {
    at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
    c10::cuda::set_device(narrow<c10::DeviceIndex>(index));
    const c10::cuda::CUDAStream stream =
        c10::cuda::getStreamFromPool(/*isHighPriority=*/false, narrow<c10::DeviceIndex>(index));
    c10::cuda::setCurrentCUDAStream(stream);
    selected() = stream;
  } catch (const c10::Error& error) {
    throw ConfigError(
        cat("runtime.device: device ", index, " cannot be used: ", error.what_without_backtrace()));
  }
  at::globalContext().setFloat32MatmulPrecision("highest");
  at::globalContext().setAllowBF16ReductionCuBLAS(false, /*allow_splitk=*/true);
}

bool is_selected() { return selected().has_value(); }

c10::Device current() { return is_selected() ? selected()->device() : c10::Device(c10::kCPU); }

void* compute_stream() { return is_selected() ? selected()->stream() : nullptr; }

std::string name(int index) {
  return at::cuda::getDeviceProperties(narrow<c10::DeviceIndex>(index))->name;
}

std::unique_ptr<Graph> capture(std::function<void()> work) {
  VAX_CHECK(is_selected());
  return std::make_unique<CapturedGraph>(work);
}

int64_t held_bytes() { return held().current; }
int64_t peak_bytes() { return held().peak; }
void reset_peak_bytes() {
  c10::cuda::CUDACachingAllocator::resetPeakStats(selected()->device_index());
}

int64_t total_bytes() {
  VAX_CHECK(is_selected());
  return narrow<int64_t>(at::cuda::getDeviceProperties(selected()->device_index())->totalGlobalMem);
}

at::Tensor pinned_empty(at::IntArrayRef sizes, at::ScalarType type) {
  return at::empty(sizes, at::TensorOptions(type).pinned_memory(is_selected()));
}

}  // namespace vax::ops::device
