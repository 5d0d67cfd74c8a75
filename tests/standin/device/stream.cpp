#include "stream.h"

#include <atomic>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "memory.h"

namespace standin {
namespace {

class Captured final : public CapturedWork {
 public:
  void replay() override {
    for (const Work& one : work) submit(one);
  }

  std::vector<Work> work;
  std::vector<std::shared_ptr<void>> memory;
};

thread_local Captured* capture = nullptr;
thread_local std::vector<Work> late;
thread_local bool has_waited = true;
std::atomic<bool> waits_are_watched = false;

void run(const Work& work) {
  const DeviceCode device;
  work();
}

void make_late_copies() {
  for (const Work& copy : std::exchange(late, {})) run(copy);
}

struct Capturing {
  explicit Capturing(Captured& recorded) { capture = &recorded; }
  Capturing(const Capturing&) = delete;
  Capturing& operator=(const Capturing&) = delete;
  ~Capturing() { capture = nullptr; }
};

}  // namespace

void submit(Work work) {
  if (capture != nullptr) {
    capture->work.push_back(std::move(work));
    return;
  }
  make_late_copies();
  run(work);
  has_waited = false;
}

void submit_late(Work copy) {
  if (capture != nullptr) {
    capture->work.push_back(std::move(copy));
  } else {
    late.push_back(std::move(copy));
  }
}

void refuse_in_capture(const char* what) {
  if (capture != nullptr)
    throw std::logic_error(std::string("the host waits for a device inside a capture: ") + what);
}

void depend_on_others() {
  refuse_in_capture("the compute stream meets another one");
  make_late_copies();
  has_waited = false;
}

void wait(const char* what) {
  refuse_in_capture(what);
  make_late_copies();
  has_waited = true;
}

void wait_to_read(const char* what) {
  if (waits_are_watched && !has_waited)
    throw std::logic_error(std::string("the host waits for the device where nobody watches: ") +
                           what);
  wait(what);
}

void demand_watched_waits() { waits_are_watched = true; }

bool is_capturing() { return capture != nullptr; }

std::unique_ptr<CapturedWork> record(const std::function<void()>& work) {
  wait("a capture begins");
  auto recorded = std::make_unique<Captured>();
  const Capturing scope(*recorded);
  work();
  return recorded;
}

std::shared_ptr<void> device_block(size_t num_bytes) {
  void* const memory = allocate_device(num_bytes);
  if (memory == nullptr) return nullptr;
  std::shared_ptr<void> block(memory, &free_device);
  if (capture != nullptr) capture->memory.push_back(block);
  return block;
}

}  // namespace standin
