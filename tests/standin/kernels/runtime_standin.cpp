// A device for tests: the host under another name. After select(0), or from the start when the
// environment has VAX_STANDIN_DEVICE=1, every CPU tensor counts as one of the device, and the
// device operators compute on it by emulated kernels.
#include <ATen/ATen.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "ops/device/ops.h"
#include "ops/device/runtime.h"

namespace vax::ops::device {
namespace {

std::atomic<bool>& selected() {
  static std::atomic<bool> value = [] {
    const char* variable = std::getenv("VAX_STANDIN_DEVICE");
    return variable != nullptr && std::string_view(variable) == "1";
  }();
  return value;
}

// Does again what was captured, with what the function holds since then: a number that should have
// come from memory but came from the host's first call is as wrong here as on a device.
class RepeatedWork final : public Graph {
 public:
  explicit RepeatedWork(std::function<void()> work) : work_(std::move(work)) {}
  void replay() override { work_(); }

 private:
  std::function<void()> work_;
};

}  // namespace

bool takes(const at::Tensor& tensor) {
  return selected() && tensor.defined() && tensor.device().is_cpu();
}

int count() { return 1; }
std::string why_none() { return ""; }
void select(int index) {
  if (index != 0) throw ConfigError(cat("device ", index, " of 1 stand-in device"));
  selected() = true;
}
bool is_selected() { return selected(); }
c10::Device current() { return c10::Device(c10::kCPU); }
void* compute_stream() { return nullptr; }
std::string name(int) { return "stand-in device"; }
std::unique_ptr<Graph> capture(std::function<void()> work) {
  return std::make_unique<RepeatedWork>(std::move(work));
}
int64_t held_bytes() { return 0; }
int64_t peak_bytes() { return 0; }
void reset_peak_bytes() {}
int64_t total_bytes() { return int64_t{1} << 34; }
at::Tensor pinned_empty(at::IntArrayRef sizes, at::ScalarType type) {
  return at::empty(sizes, type);
}

}  // namespace vax::ops::device
