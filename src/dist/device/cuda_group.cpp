#include "dist/device/cuda_group.h"

#include <exception>
#include <utility>

#include "base/stopwatch.h"

namespace vax::dist {
namespace {

constexpr size_t kMaxUnderWay = 8;

class CudaOperation final : public Work::State {
 public:
  CudaOperation(std::shared_ptr<CudaGroup> group, std::shared_ptr<CudaCall> call)
      : group_(std::move(group)), call_(std::move(call)) {}

  // Done for the host: what is put on any stream from now on comes after it.
  bool test() override {
    group_->poll();
    return call_->is_submitted && call_->done.is_done();
  }
  void wait() override {
    group_->poll();
    if (!call_->is_submitted) group_->devices->wait_until([this] { return call_->is_submitted; });
    group_->select_device();
    call_->done.block(call_->consumer);
  }
  bool blocks_host() const override { return !call_->is_submitted; }

 private:
  const std::shared_ptr<CudaGroup> group_;
  const std::shared_ptr<CudaCall> call_;
};

}  // namespace

CudaGroup::CudaGroup(const Communicator& ranks, const DeviceContext& the_device)
    : rank(ranks.rank()),
      size(ranks.size()),
      device(the_device),
      devices(ranks.devices()),
      exceptions_before_(std::uncaught_exceptions()) {
  select_device();
}

double CudaGroup::make_room() {
  poll();
  select_device();
  if (calls_.size() < kMaxUnderWay) return 0;
  const Stopwatch watch;
  devices->wait_until([this] { return calls_.size() < kMaxUnderWay; });
  return watch.elapsed_s();
}

std::shared_ptr<CudaCall> CudaGroup::start(Call call, Stream consumer) {
  auto started = std::make_shared<CudaCall>();
  started->consumer =
      static_cast<cudaStream_t>(consumer.handle ? consumer.handle : device.compute_stream);
  started->ready.record(started->consumer);
  started->order = devices->next_order();
  started->call = std::move(call);
  calls_.push_back(started);
  return started;
}

void CudaGroup::submit(CudaCall& call, cudaStream_t stream) {
  call.done.record(stream);
  call.is_submitted = true;
}

void CudaGroup::drop_done() {
  while (!calls_.empty() && calls_.front()->is_submitted && calls_.front()->done.is_done()) {
    calls_.front()->call.done();
    calls_.pop_front();
  }
}

void CudaGroup::wait_until_idle() {
  select_device();
  CudaEvent computed;
  computed.record(static_cast<cudaStream_t>(device.compute_stream));
  devices->wait_until([&] { return calls_.empty() && computed.is_done(); });
}

bool CudaGroup::unwinds() const { return std::uncaught_exceptions() > exceptions_before_; }

Work make_work(std::shared_ptr<CudaGroup> group, std::shared_ptr<CudaCall> call) {
  return Work(std::make_unique<CudaOperation>(std::move(group), std::move(call)));
}

}  // namespace vax::dist
