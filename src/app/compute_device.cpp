#include "app/compute_device.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "app/runtime_options.h"
#include "base/error.h"
#include "ops/device/runtime.h"
#include "train/model_options.h"

namespace vax::app {
namespace {

bool runs_model(const std::string& subcommand) {
  constexpr std::array<std::string_view, 5> kRunning = {"align", "finetune", "eval", "drift",
                                                        "generate"};
  return std::ranges::find(kRunning, subcommand) != kRunning.end();
}

bool wants_device(const Options& options) {
  const DeviceChoice asked = options.get<RuntimeOptions>().device;
  if (options.subcommand == "plan") return asked == DeviceChoice::kCuda;
  if (!runs_model(options.subcommand) || asked == DeviceChoice::kCpu) return false;
  if (ops::device::count() > 0) return true;
  if (asked == DeviceChoice::kCuda)
    throw ConfigError(
        cat("runtime.device: expected auto or cpu (", ops::device::why_none(), "), found cuda"));
  return false;
}

}  // namespace

void choose_device(Options& options) {
  const bool device = wants_device(options);
  if (device) {
    options.get<RuntimeOptions>().device = DeviceChoice::kCuda;
    ModelDtype& dtype = options.get<ModelOptions>().dtype;
    if (dtype == ModelDtype::kDefault) dtype = ModelDtype::kBf16;
    return;
  }
  if (options.get<RuntimeOptions>().graphs == Graphs::kOn)
    throw ConfigError("runtime.graphs: expected auto or off on a CPU, found on");
}

ComputeDevice select_device(const Options& options, int local_rank) {
  if (options.get<RuntimeOptions>().device != DeviceChoice::kCuda || options.subcommand == "plan")
    return {};
  const int index = local_rank % ops::device::count();
  ops::device::select(index);
  return {.device = ops::device::current(),
          .context =
              dist::DeviceContext{.index = index, .compute_stream = ops::device::compute_stream()}};
}

}  // namespace vax::app
