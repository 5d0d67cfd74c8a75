// Private to dist: all device groups of one process. It moves them on while the host waits
// for the device, knows which of their calls the device has not done, and ends them when the
// watchdog ends the process, so that no kernel spins on. No CUDA in here.
//
// How a device that hangs gets a name: the host runs ahead of its streams, so a call that others do
// not join is not a wait of the host. Only wait_until() waits. While it does, the oldest call that
// is not done counts as waited for (streams are queues and events are recorded behind what they
// wait for, so an older call never depends on a younger one); where its operands are not there yet
// the wait is one for the compute stream of this rank, whatever hangs in it.
//
// Threads: the main thread, and abort_all() any thread. Members are borrowed: they remove
// themselves.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "dist/comm/call_log.h"

namespace vax::dist {

// A call that was given to the device and is not known to be done.
struct DeviceCall {
  virtual ~DeviceCall() = default;
  virtual bool operands_are_ready() = 0;  // THROWS CommError
  uint64_t order = 0;                     // of its start in this process
  Call call;
};

class DeviceMember {
 public:
  virtual ~DeviceMember() = default;
  // Moves operations on and finds failures. THROWS CommError.
  virtual void poll() = 0;
  // The oldest that is not done at the last poll(); null: none.
  virtual DeviceCall* oldest_call() = 0;
  // Ends what the devices of other ranks wait for. Any thread, also while the main thread is
  // anywhere in this member.
  virtual void abort() noexcept = 0;
};

class DeviceRegistry {
 public:
  // `rank` of the world.
  DeviceRegistry(std::shared_ptr<CallLog> calls, int rank)
      : calls_(std::move(calls)), rank_(rank) {}

  void add(DeviceMember& member);
  void remove(DeviceMember& member);
  uint64_t next_order() { return ++num_calls_; }

  // BLOCKS host until `done()`, which is asked between polls. THROWS what poll() and done() throw.
  void wait_until(const std::function<bool()>& done);

  // Of the watchdog, once it has written its records: aborts all members. The main thread must not
  // report what it then finds as failures of its own.
  void abort_all() noexcept;
  // The main thread after a failure: does not return while the watchdog ends the process.
  void hold_if_ending() const;

 private:
  void poll();
  DeviceCall* oldest_call();

  const std::shared_ptr<CallLog> calls_;
  const int rank_;
  std::shared_ptr<CallGroup> compute_calls_;  // made when first needed
  uint64_t num_calls_ = 0;
  std::mutex mutex_;  // guards the list against abort_all(); the main thread alone changes it
  std::vector<DeviceMember*> members_;
  std::atomic<bool> ending_ = false;
};

}  // namespace vax::dist
