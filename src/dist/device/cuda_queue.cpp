#include "dist/device/cuda_queue.h"

#include "base/stopwatch.h"

namespace vax::dist {

CudaQueue::CudaQueue(const Communicator& ranks, const DeviceContext& the_device,
                     const std::string& purpose)
    : rank(ranks.rank()),
      size(ranks.size()),
      device(the_device),
      services(ranks.services()),
      call_group(ranks.make_call_group(purpose)) {
  select_device();
}

std::shared_ptr<CudaCall> CudaQueue::start(const char* operation, int64_t count, DataType type,
                                           int64_t sent_bytes, Stream consumer) {
  select_device();
  if (calls_.size() >= kMaxUnderWay) wait_until([this] { return calls_.size() < kMaxUnderWay; });
  ++statistics.num_calls;
  statistics.num_bytes += sent_bytes;
  auto call = std::make_shared<CudaCall>();
  call->consumer =
      static_cast<cudaStream_t>(consumer.handle ? consumer.handle : device.compute_stream);
  call->ready.record(call->consumer);
  call->order = services->devices->next_order();
  call->call = Call(call_group, operation, count, count * static_cast<int64_t>(size_of(type)));
  calls_.push_back(call);
  return call;
}

void CudaQueue::submit(CudaCall& call, cudaStream_t stream) {
  call.done.record(stream);
  call.is_submitted = true;
}

void CudaQueue::drop_done() {
  while (!calls_.empty() && calls_.front()->is_submitted && calls_.front()->done.is_done()) {
    calls_.front()->call.done();
    calls_.pop_front();
  }
}

void CudaQueue::wait_until(const std::function<bool()>& done) {
  const Stopwatch watch;
  services->devices->wait_until(done);
  statistics.blocked_s += watch.elapsed_s();
}

void CudaQueue::wait_until_idle() {
  select_device();
  CudaEvent computed;
  computed.record(static_cast<cudaStream_t>(device.compute_stream));
  services->devices->wait_until([&] { return calls_.empty() && computed.is_done(); });
}

}  // namespace vax::dist
