#include "dist/device/cuda_self_collectives.h"

#include "dist/comm/call_accounting.h"
#include "dist/device/cuda_handle.h"

namespace vax::dist {
namespace {

class DeviceSelfCollectives final : public Collectives {
 public:
  explicit DeviceSelfCollectives(const DeviceContext& device) : device_(device) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string name() const override { return "self"; }
  bool orders_stream() const override { return true; }

  Work all_gather(const void* send, void* recv, int64_t count, DataType type,
                  Stream stream) override {
    check_count("all_gather", count);
    return copy(send, recv, count, type, stream);
  }
  Work reduce_scatter(void* send, void* recv, int64_t count, DataType type, ReduceOp,
                      Stream stream) override {
    check_count("reduce_scatter", count);
    return copy(send, recv, count, type, stream);
  }
  Work all_reduce(void* data, int64_t count, DataType type, ReduceOp, Stream stream) override {
    check_count("all_reduce", count);
    return copy(data, data, count, type, stream);
  }
  Work broadcast(void* data, int64_t count, DataType type, int root, Stream stream) override {
    check_broadcast(count, root, 1);
    return copy(data, data, count, type, stream);
  }
  void barrier() override { ++statistics_.num_calls; }

  CollectiveStatistics statistics() const override { return statistics_; }

 private:
  Work copy(const void* from, void* to, int64_t count, DataType type, Stream stream) {
    ++statistics_.num_calls;
    VAX_CUDA(cudaSetDevice(device_.index));
    const auto on =
        static_cast<cudaStream_t>(stream.handle ? stream.handle : device_.compute_stream);
    if (from != to && count > 0)
      VAX_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(count) * size_of(type),
                               cudaMemcpyDeviceToDevice, on));
    return make_stream_work(on);
  }

  const DeviceContext device_;
  CollectiveStatistics statistics_;
};

}  // namespace

std::unique_ptr<Collectives> make_device_self_collectives(const DeviceContext& device) {
  return std::make_unique<DeviceSelfCollectives>(device);
}

}  // namespace vax::dist
