#include "step_engine.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.h"
#include "base/stopwatch.h"
#include "ops/device/runtime.h"
#include "ops/device/transfer.h"
#include "vaccine/vaccine_method.h"

namespace vax::benchmarks {
namespace {

template <Choice T>
T choice(const std::string& word) {
  const std::optional<T> found = choice_of<T>(word);
  VAX_CHECK(found.has_value(), word);
  return *found;
}

// Matrices are small random numbers, norms 1: losses and gradients are of ordinary size.
void fill(train::Plane& plane) {
  int unit = 0;
  for (const FlatUnit& layout : plane.layout().units()) {
    const at::Tensor& shard = plane.units().shard(unit++);
    for (const FlatGroup& group : layout.groups) {
      const at::Tensor values = shard.narrow(0, group.offset, group.count);
      if (group.shape.size() > 1)
        values.normal_(0, 0.02);
      else
        values.fill_(1);
    }
  }
}

std::unique_ptr<train::TrainingEngine> make_engine(const StepSettings& settings,
                                                   const dist::Communicator& world,
                                                   const dist::DeviceContext* device) {
  const model::Spec spec = model_config(settings);
  const train::ModelRequest request{.model = {.dtype = choice<ModelDtype>(settings.dtype)},
                                    .train_base = !settings.lora(),
                                    .probe_dtype = choice<ProbeDtype>(settings.probe),
                                    .device = ops::device::current(),
                                    .on_device = ops::device::is_selected()};
  train::Mesh mesh =
      train::make_mesh(world, world.split_by_node(), request.shard, request.train_base, device);
  auto state = std::make_unique<train::ModelState>(train::ModelPlan(
      request, spec, settings.lora() ? model::make_lora_spec(spec, 8, 4, {}) : model::LoraSpec{}));
  state->allocate(mesh);
  at::manual_seed(1);
  fill(state->frozen());
  fill(state->trainable());
  state->publish();
  if (settings.graphs &&
      !(ops::device::is_selected() && train::passes_gather_nothing(mesh, *state)))
    throw ConfigError("--graphs on: expected a GPU and weights that are not gathered");
  const train::EngineSettings engine{.train = {.recompute = choice<Recompute>(settings.recompute)},
                                     .dropout = settings.lora() ? 0.1 : 0,
                                     .use_graphs = settings.graphs};
  return std::make_unique<train::TrainingEngine>(std::move(mesh), std::move(state), engine);
}

}  // namespace

StepEngine::StepEngine(const StepSettings& settings, const dist::Communicator& world,
                       const dist::DeviceContext* device)
    : waiter_(world, device),
      engine_(make_engine(settings, world, device)),
      batch_(make_batch(settings, engine_->state().model().vocab_size())) {}

int StepEngine::add_method(const std::string& name) {
  return engine_->add_method(
      {.declaration = {},
       .make = [name](train::MethodContext context) -> std::unique_ptr<train::Method> {
         if (name == "sft") return std::make_unique<vaccine::SftMethod>(context);
         const train::MethodContext without_probe{
             .model = context.model, .probe = context.model, .device = context.device};
         return std::make_unique<vaccine::VaccineMethod>(
             VaccineOptions{.probe_check_interval = 0},
             name == "vaccine" ? without_probe : context);
       }});
}

StepTime StepEngine::step(int method) {
  const Stopwatch watch;
  engine_->use_method(method);
  StepTime time;
  time.loss =
      engine_
          ->run({.step = ++num_steps_,
                 .streams = {{.micro_batches = {&batch_, 1}, .label_tokens = batch_.num_labels()}}})
          .loss;
  time.passes_s = watch.elapsed_s();
  const double norm = engine_->gradient_norm();
  VAX_CHECK(std::isfinite(time.loss) && std::isfinite(norm), "loss ", time.loss, ", gradient norm ",
            norm);
  engine_->update(1e-5, train::clip_scale(norm, TrainOptions{}.clip));
  ops::device::wait_for(engine_->state().trainable().units().shard(0));
  time.step_s = watch.elapsed_s();
  return time;
}

}  // namespace vax::benchmarks
