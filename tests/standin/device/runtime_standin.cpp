// ops/device/runtime.h and takes() for the stand-in's device. It is there from the start when the
// environment has VAX_STANDIN_DEVICE=1, else after select(0).
#include "ops/device/runtime.h"

#include <ATen/ATen.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "memory.h"
#include "stream.h"
#include "torch_device.h"

namespace vax::ops::device {
namespace {

std::atomic<bool>& selected() {
  static std::atomic<bool> value = [] {
    const char* variable = std::getenv("VAX_STANDIN_DEVICE");
    const bool from_start = variable != nullptr && std::string_view(variable) == "1";
    if (from_start) standin::protect_device_memory();
    return from_start;
  }();
  return value;
}

class RecordedGraph final : public Graph {
 public:
  explicit RecordedGraph(std::unique_ptr<standin::CapturedWork> recording)
      : recording_(std::move(recording)) {}
  void replay() override { recording_->replay(); }

 private:
  std::unique_ptr<standin::CapturedWork> recording_;
};

}  // namespace

bool takes(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device() == standin::the_device();
}

int count() { return 1; }
std::string why_none() { return ""; }
void select(int index) {
  if (index != 0) throw ConfigError(cat("device ", index, " of 1 stand-in device"));
  standin::protect_device_memory();
  selected() = true;
}
bool is_selected() { return selected(); }
c10::Device current() { return is_selected() ? standin::the_device() : c10::Device(c10::kCPU); }
void* compute_stream() { return nullptr; }
std::string name(int) { return "stand-in device"; }
std::unique_ptr<Graph> capture(std::function<void()> work) {
  VAX_CHECK(is_selected());
  return std::make_unique<RecordedGraph>(standin::record(work));
}
int64_t held_bytes() { return standin::device_bytes().held; }
int64_t peak_bytes() { return standin::device_bytes().peak; }
void reset_peak_bytes() { standin::reset_peak_device_bytes(); }
int64_t total_bytes() { return int64_t{1} << 34; }
at::Tensor pinned_empty(at::IntArrayRef sizes, at::ScalarType type) {
  return is_selected() ? standin::pinned_empty(sizes, type) : at::empty(sizes, type);
}

}  // namespace vax::ops::device
