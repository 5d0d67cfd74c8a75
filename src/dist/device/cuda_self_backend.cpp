#include "dist/device/cuda_self_backend.h"

#include <optional>

#include "dist/device/cuda_handle.h"

namespace vax::dist {
namespace {

// Ordered on the stream alone: waiting for it there takes nothing. Its event is recorded when
// somebody asks, not before: nothing that is illegal inside a graph capture then happens to a work
// that is only waited for.
class StreamOperation final : public Work::State {
 public:
  explicit StreamOperation(cudaStream_t stream) : stream_(stream) {}
  bool test() override {
    if (!done_) done_.emplace().record(stream_);
    return done_->is_done();
  }
  void wait() override {}
  bool blocks_host() const override { return false; }

 private:
  cudaStream_t stream_;
  std::optional<CudaEvent> done_;
};

class CudaSelfBackend final : public Backend {
 public:
  explicit CudaSelfBackend(const DeviceContext& device) : device_(device) {}

  GroupTraits traits() const override {
    return {.name = "self", .orders_stream = true, .reduces_on_host = false};
  }
  Work start(Operation operation) override {
    VAX_CUDA(cudaSetDevice(device_.index));
    const auto on = static_cast<cudaStream_t>(operation.stream.handle ? operation.stream.handle
                                                                      : device_.compute_stream);
    if (operation.send != operation.recv && operation.count > 0)
      VAX_CUDA(cudaMemcpyAsync(operation.recv, operation.send,
                               static_cast<size_t>(operation.count) * size_of(operation.type),
                               cudaMemcpyDeviceToDevice, on));
    return Work(std::make_unique<StreamOperation>(on));
  }
  void barrier(Call) override {}

 private:
  const DeviceContext device_;
};

}  // namespace

std::unique_ptr<Backend> make_cuda_self_backend(const DeviceContext& device) {
  return std::make_unique<CudaSelfBackend>(device);
}

}  // namespace vax::dist
