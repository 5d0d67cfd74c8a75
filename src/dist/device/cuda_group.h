// Private to this folder: what device groups with streams of their own have in common: the calls
// that one has given to its streams, oldest first. A call leaves when its event is done, which is
// looked at in every poll(). Every start of a call first makes room: with eight calls ahead of the
// device the host blocks, in a wait that the watchdog sees. Without that a hang would let the host
// run on until the device's launch queue is full and block it in some kernel launch that has no
// name.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>

#include "dist/comm/communicator.h"
#include "dist/comm/device_registry.h"
#include "dist/device/cuda_handle.h"
#include "dist/device/device_group.h"

namespace vax::dist {

struct CudaCall final : DeviceCall {
  bool operands_are_ready() override { return ready.is_done(); }

  CudaEvent ready;  // recorded on the consumer's stream when the call starts
  CudaEvent done;
  cudaStream_t consumer = nullptr;
  bool is_submitted = false;  // `done` is recorded
};

// What derives from it adds itself to `devices` when it is whole and removes itself before anything
// of it goes: abort() may come at any time.
class CudaGroup : public DeviceMember {
 public:
  CudaGroup(const Communicator& ranks, const DeviceContext& device);
  CudaGroup(const CudaGroup&) = delete;
  CudaGroup& operator=(const CudaGroup&) = delete;

  DeviceCall* oldest_call() override { return calls_.empty() ? nullptr : calls_.front().get(); }

  // As Backend::make_room().
  double make_room();
  // `consumer`: null for the compute stream. THROWS CommError.
  std::shared_ptr<CudaCall> start(Call call, Stream consumer);
  // What has been put on `stream` so far is the rest of the call.
  void submit(CudaCall& call, cudaStream_t stream);
  void drop_done();  // THROWS CommError
  // BLOCKS host until all calls and what the compute stream holds now are done.
  void wait_until_idle();
  void select_device() const { VAX_CUDA(cudaSetDevice(device.index)); }
  // An exception is in flight that was not when this was made: the other ranks may not come.
  bool unwinds() const;

  const int rank, size;
  const DeviceContext device;
  const std::shared_ptr<DeviceRegistry> devices;

 private:
  const int exceptions_before_;  // in flight when this was made
  std::deque<std::shared_ptr<CudaCall>> calls_;
};

// The completion of a call that has been started.
Work make_work(std::shared_ptr<CudaGroup> group, std::shared_ptr<CudaCall> call);

}  // namespace vax::dist
