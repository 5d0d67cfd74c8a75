// Time of whole training steps, SFT and Vaccine in turn in one process, so that the ratio holds
// whatever else the machine is doing; on the host or on one GPU. Beside it the FLOP that the step
// must do, and the memory that tensors take.
//   step_benchmark [--model toy|134m|7b|13b] [--layers N] [--adapter lora|full] [--dtype fp32|bf16]
//                  [--probe same|bf16|fp8] [--recompute none|pass2|all] [--graphs on|off]
//                  [--sequences N] [--tokens N] [--labels N] [--rounds N] [--warmup N]
//                  [--threads N] [--device auto|cpu|cuda] [--peak-tflops X]
// Prints one JSON object a line and method on standard output: medians over the rounds, ratios to
// SFT within a round.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "dist/comm/environment.h"
#include "ops/device/runtime.h"
#include "step_engine.h"
#include "train/tensor_memory.h"

namespace vax::benchmarks {
namespace {

using nlohmann::json;

// Of one method over the rounds.
struct Measured {
  std::string name;
  int method = 0;  // of the engine
  std::vector<double> step_s, passes_s;
  double first_loss = 0;
  int64_t peak_bytes = 0;
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

std::vector<double> ratios(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> result;
  for (size_t i = 0; i < a.size(); ++i) result.push_back(a[i] / b[i]);
  return result;
}

// Dense bf16, or fp32 without TF32, in TFLOP/s, as the makers state them for the SXM models; 0:
// not known.
double peak_tflops(const StepSettings& settings, const std::string& device_name) {
  if (settings.peak_tflops > 0) return settings.peak_tflops;
  struct Peak {
    const char* name;
    double bf16, fp32;
  };
  for (const Peak& peak : {Peak{"H200", 989, 67}, Peak{"H100", 989, 67}, Peak{"A100", 312, 19.5}})
    if (device_name.find(peak.name) != std::string::npos)
      return settings.dtype == "bf16" ? peak.bf16 : peak.fp32;
  return 0;
}

// One method alone, before the others take memory.
void measure_alone(StepEngine& engine, Measured& measured) {
  measured.method = engine.add_method(measured.name);
  train::reset_tensor_peak();
  // As it is, captured, replayed.
  constexpr int kSteps = 3;
  for (int i = 0; i < kSteps; ++i) {
    const StepTime time = engine.step(measured.method);
    if (i == 0) measured.first_loss = time.loss;
  }
  measured.peak_bytes = train::tensor_peak_bytes();
}

std::vector<Measured> measure(StepEngine& engine, const StepSettings& settings) {
  std::vector<Measured> all = {{.name = "sft"}, {.name = "vaccine"}};
  if (settings.probe != "same") all.push_back({.name = "vaccine-" + settings.probe});
  for (Measured& measured : all) measure_alone(engine, measured);
  for (int round = -settings.warmup; round < settings.rounds; ++round)
    for (Measured& measured : all) {
      const StepTime time = engine.step(measured.method);
      if (round < 0) continue;
      measured.step_s.push_back(time.step_s);
      measured.passes_s.push_back(time.passes_s);
    }
  return all;
}

json describe(const StepSettings& settings, const std::string& device_name) {
  return {{"stack", "vaccine"},
          {"model", settings.model},
          {"adapter", settings.adapter},
          {"dtype", settings.dtype},
          {"sequences", settings.sequences},
          {"sequence_tokens", settings.tokens},
          {"recompute", settings.recompute},
          {"graphs", settings.graphs},
          {"device", device_name}};
}

void report(json line, const StepSettings& settings, StepEngine& engine, const Measured& measured,
            const Measured& sft) {
  const model::Spec& config = engine.plan().model->spec();
  const StepFlop flop = count_flop(settings, config, engine.batch());
  const bool one_pass = measured.name == "sft";
  const double counted = one_pass ? flop.one_pass() : flop.two_passes();
  const double step_s = median(measured.step_s);
  const auto tokens = static_cast<double>(engine.batch().num_tokens());
  const double tflops = counted * 1e-12 / step_s;
  const double peak = peak_tflops(settings, line["device"]);
  line.update({{"method", measured.name},
               {"layers", config.num_layers},
               {"parameters", engine.num_parameters()},
               {"tokens", engine.batch().num_tokens()},
               {"label_tokens", engine.batch().num_labels()},
               {"rounds", settings.rounds},
               {"step_s", step_s},
               {"step_min_s", *std::ranges::min_element(measured.step_s)},
               {"step_max_s", *std::ranges::max_element(measured.step_s)},
               {"passes_s", median(measured.passes_s)},
               {"tokens_per_s", tokens / step_s},
               {"tflop", counted * 1e-12},
               {"tflops", tflops},
               {"peak_tflops", peak > 0 ? json(peak) : json()},
               {"mfu", peak > 0 ? json(tflops / peak) : json()},
               {"peak_bytes", measured.peak_bytes},
               {"loss", measured.first_loss}});
  if (!one_pass)
    line.update({{"ratio", median(ratios(measured.step_s, sft.step_s))},
                 {"passes_ratio", median(ratios(measured.passes_s, sft.passes_s))},
                 {"counted_ratio", flop.two_passes() / flop.one_pass()}});
  std::cout << line.dump() << std::endl;
}

std::optional<dist::DeviceContext> choose_device(const StepSettings& settings) {
  if (settings.device == "cpu") return std::nullopt;
  if (ops::device::count() == 0) {
    if (settings.device == "cuda")
      throw ConfigError(cat("--device cuda: ", ops::device::why_none()));
    return std::nullopt;
  }
  ops::device::select(0);
  return dist::DeviceContext{.index = 0, .compute_stream = ops::device::compute_stream()};
}

void run(const StepSettings& settings) {
  at::set_num_threads(settings.threads);
  train::count_tensor_memory();
  const dist::Communicator world = dist::Communicator::world();
  const std::optional<dist::DeviceContext> device = choose_device(settings);
  StepEngine engine(settings, world, device ? &*device : nullptr);
  const std::vector<Measured> all = measure(engine, settings);
  const json line =
      describe(settings, device ? ops::device::name(device->index) : std::string("host"));
  for (const Measured& measured : all) report(line, settings, engine, measured, all[0]);
}

}  // namespace
}  // namespace vax::benchmarks

int main(int argc, char** argv) {
  // As the program: memory that a step frees is kept for the next.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, -1);
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const vax::dist::Environment environment(&argc, &argv);
  try {
    const c10::InferenceMode no_autograd;
    vax::benchmarks::run(vax::benchmarks::parse_settings(arguments));
    return EXIT_SUCCESS;
  } catch (const std::exception& e) {
    vax::log::error(e.what());
    return EXIT_FAILURE;
  }
}
