#include "dist/comm/device_registry.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace vax::dist {
namespace {

// First only long enough for a step that is about to end, then asleep.
constexpr int kYields = 200;
constexpr std::chrono::microseconds kPollInterval{50};
// Longer than the watchdog takes to end a process.
constexpr std::chrono::seconds kHolding{15};

}  // namespace

void DeviceRegistry::add(DeviceMember& member) {
  const std::lock_guard lock(mutex_);
  members_.push_back(&member);
}

void DeviceRegistry::remove(DeviceMember& member) {
  const std::lock_guard lock(mutex_);
  std::erase(members_, &member);
}

void DeviceRegistry::poll() {
  for (DeviceMember* member : members_) member->poll();
}

DeviceCall* DeviceRegistry::oldest_call() {
  DeviceCall* oldest = nullptr;
  for (DeviceMember* member : members_) {
    DeviceCall* const call = member->oldest_call();
    if (call != nullptr && (oldest == nullptr || call->order < oldest->order)) oldest = call;
  }
  return oldest;
}

void DeviceRegistry::wait_until(const std::function<bool()>& done) {
  poll();
  if (done()) return;
  if (!compute_calls_) compute_calls_ = calls_->add_group("compute stream", {rank_});
  Call computing = Call::blocking(compute_calls_, "synchronize");
  uint64_t waited_order = 0;  // of the call that is waited for; 0: the compute stream
  for (int look = 0; !done(); ++look) {
    DeviceCall* const oldest = oldest_call();
    const uint64_t order =
        oldest != nullptr && oldest->operands_are_ready() ? oldest->order : uint64_t{0};
    if (order != waited_order) {
      order != 0 ? computing.wait_ends() : computing.wait_begins();
      waited_order = order;
    }
    if (order != 0) oldest->call.wait_begins();
    if (look < kYields)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(kPollInterval);
    poll();
  }
  for (DeviceMember* member : members_)
    if (DeviceCall* const call = member->oldest_call()) call->call.wait_ends();
}

void DeviceRegistry::abort_all() noexcept {
  ending_ = true;
  const std::lock_guard lock(mutex_);
  for (DeviceMember* member : members_) member->abort();
}

void DeviceRegistry::hold_if_ending() const {
  if (ending_) std::this_thread::sleep_for(kHolding);
}

}  // namespace vax::dist
