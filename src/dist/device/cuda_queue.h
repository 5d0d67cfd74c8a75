// Private to this folder: the calls that one device group has given to its streams, oldest first.
// A call leaves when its event is done, which is looked at in every poll(). Every start of a call
// first makes room: with more than kMaxUnderWay calls ahead of the device the host blocks, in a
// wait that the watchdog sees. Without that a hang would let the host run on until the device's
// launch queue is full and block it in some kernel launch that has no name.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "dist/comm/communicator.h"
#include "dist/comm/device_registry.h"
#include "dist/comm/process_services.h"
#include "dist/device/cuda_handle.h"
#include "dist/device/device_group.h"

namespace vax::dist {

inline constexpr size_t kMaxUnderWay = 8;

struct CudaCall final : DeviceCall {
  bool operands_are_ready() override { return ready.is_done(); }

  CudaEvent ready;  // recorded on the consumer's stream when the call starts
  CudaEvent done;
  cudaStream_t consumer = nullptr;
  bool is_submitted = false;  // `done` is recorded
};

// REQUIRES that its DeviceMember is in the registry while calls are there.
class CudaQueue {
 public:
  CudaQueue(const Communicator& ranks, const DeviceContext& device, const std::string& purpose);
  // For implementations of Collectives: adds the call to the statistics, too. `consumer`: null for
  // the compute stream. BLOCKS host while kMaxUnderWay calls are under way. THROWS CommError.
  std::shared_ptr<CudaCall> start(const char* operation, int64_t count, DataType type,
                                  int64_t sent_bytes, Stream consumer);
  // What has been put on `stream` so far is the rest of the call.
  void submit(CudaCall& call, cudaStream_t stream);
  void drop_done();  // THROWS CommError
  DeviceCall* oldest() { return calls_.empty() ? nullptr : calls_.front().get(); }
  // BLOCKS host until `done()`; counts as blocked.
  void wait_until(const std::function<bool()>& done);
  // BLOCKS host until all calls and what the compute stream holds now are done.
  void wait_until_idle();
  void select_device() const { VAX_CUDA(cudaSetDevice(device.index)); }

  const int rank, size;
  const DeviceContext device;
  const std::shared_ptr<ProcessServices> services;
  const std::shared_ptr<CallGroup> call_group;
  CollectiveStatistics statistics;

 private:
  std::deque<std::shared_ptr<CudaCall>> calls_;
};

}  // namespace vax::dist
