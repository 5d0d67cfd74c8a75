// The compute stream of the stand-in: the calling thread, which does what it is given as late as a
// device may (copies from the host) or at once (everything else), and records it while a graph is
// captured. Each thread has a stream of its own.
#pragma once

#include <functional>
#include <memory>

namespace standin {

using Work = std::function<void()>;

// Device code. Runs before submit() returns, behind the copies that are still to be made; during a
// capture it is recorded instead. THROWS what `work` throws.
void submit(Work work);
// A copy from memory of the host that nothing may change before wait(): made when the device is
// given other work, or the host waits.
void submit_late(Work copy);
// Before whatever makes the host wait for the device. THROWS std::logic_error during a capture,
// which it would break. `what` names it.
void wait(const char* what);
// Before what is no wait but would break a capture. THROWS std::logic_error during one.
void refuse_in_capture(const char* what);
// The stream comes to depend on another one, whose work may take for ever. THROWS as wait().
void depend_on_others();
// As wait(), for reading what the device has computed. Where ranks communicate, that must not be
// how the host waits: it would wait for ever, unnoticed, when others do not come. THROWS
// std::logic_error unless the host has waited since the last submit(), once
// demand_watched_waits() was called.
void wait_to_read(const char* what);
void demand_watched_waits();

bool is_capturing();
// What a capture has put on the stream, and device memory that it has allocated, as long as the
// object lives.
class CapturedWork {
 public:
  virtual ~CapturedWork() = default;
  virtual void replay() = 0;
};
// Runs `work` once; what it submits is recorded. THROWS what `work` throws.
std::unique_ptr<CapturedWork> record(const std::function<void()>& work);

// Device memory; a capture's own lives as long as its CapturedWork, too. Null: no more, or 0 bytes.
std::shared_ptr<void> device_block(size_t num_bytes);

}  // namespace standin
