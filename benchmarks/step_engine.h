// Training steps of `vaccine align` on one rank, without files: its engine, on a model of a given
// shape with random weights that are made where they are used.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/packed_batch.h"
#include "dist/comm/communicator.h"
#include "dist/device/device_group.h"
#include "model/spec.h"
#include "train/device_waiter.h"
#include "train/training_engine.h"

namespace vax::benchmarks {

struct StepSettings {
  std::string model = "134m";  // a key of model_config()
  int64_t layers = 0;          // in place of the model's; 0: the model's
  std::string adapter = "lora", dtype = "fp32";
  std::string probe = "same";  // same: no third method
  std::string recompute = "none";
  bool graphs = false;
  int64_t sequences = 5, tokens = 100, labels = 80;  // the last two of a sequence
  int rounds = 7, warmup = 3;
  int threads = 1;
  std::string device = "auto";  // auto | cpu | cuda
  double peak_tflops = 0;       // 0: by the device's name

  bool lora() const { return adapter == "lora"; }
};

// Names and values as on the command line, e.g. {"--model", "7b"}. THROWS ConfigError.
StepSettings parse_settings(const std::vector<std::string>& arguments);
// toy | 134m | 7b | 13b. THROWS ConfigError.
model::Spec model_config(const StepSettings& settings);
PackedBatch make_batch(const StepSettings& settings, int64_t vocab_size);

// FLOP that a step cannot do without, counted from the shapes: 2 per weight and token forward, 2
// for the gradient of the input, 2 for that of the weight where it is trained, attention's products
// over the causal half. Recomputation and LoRA's own products are not in it.
struct StepFlop {
  double forward, input_gradient, weight_gradient;
  double one_pass() const { return forward + input_gradient + weight_gradient; }
  // A first pass without gradients of weights.
  double two_passes() const { return one_pass() + forward + input_gradient; }
};
StepFlop count_flop(const StepSettings& settings, const model::Spec& config,
                    const PackedBatch& batch);

struct StepTime {
  double passes_s = 0;  // the gradients
  double step_s = 0;    // with norm, clipping and optimizer
  double loss = 0;
};

class StepEngine {
 public:
  // `device` null: the host. The last two are borrowed. THROWS ConfigError, also when graphs are
  // asked for and cannot be.
  StepEngine(const StepSettings& settings, const dist::Communicator& world,
             const dist::DeviceContext* device);

  const train::ModelPlan& plan() { return engine_->state().plan(); }
  const PackedBatch& batch() const { return batch_; }
  int64_t num_parameters() { return engine_->state().num_parameters(); }
  // sft | vaccine (pass 1 as pass 2) | vaccine-fp8, vaccine-bf16 (the settings' probe); by the
  // number that is returned it is run.
  int add_method(const std::string& name);
  // BLOCKS host until the device has done the step. THROWS std::logic_error when the loss or the
  // gradient is not finite.
  StepTime step(int method);

 private:
  train::DeviceWaiter waiter_;
  std::unique_ptr<train::TrainingEngine> engine_;
  PackedBatch batch_;
  int64_t num_steps_ = 0;
};

}  // namespace vax::benchmarks
