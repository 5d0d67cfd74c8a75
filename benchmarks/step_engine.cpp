#include "step_engine.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/stopwatch.h"
#include "model/decoder/layout.h"
#include "ops/device/runtime.h"
#include "ops/device/transfer.h"
#include "vaccine/vaccine_method.h"

namespace vax::benchmarks {
namespace {

train::ModelRequest request_of(const StepSettings& settings) {
  train::ModelRequest request;
  request.model.dtype = choice_of<ModelDtype>(settings.dtype).value();
  request.train_base = !settings.lora();
  request.probe_dtype = choice_of<ProbeDtype>(settings.probe).value();
  request.device = ops::device::current();
  request.on_device = ops::device::is_selected();
  return request;
}

TrainOptions train_options(const StepSettings& settings) {
  TrainOptions options;
  options.recompute = choice_of<Recompute>(settings.recompute).value();
  return options;
}

}  // namespace

StepEngine::StepEngine(const StepSettings& settings, const dist::Communicator& world,
                       const dist::DeviceContext* device)
    : settings_(settings),
      train_(train_options(settings)),
      plan_(request_of(settings), model_config(settings),
            settings.lora() ? model::make_lora_spec(model_config(settings), 8, 4, {})
                            : model::LoraSpec{}),
      waiter_(world, device),
      mesh_(train::make_mesh(world, world.split_by_node(), {}, plan_.train_base, device)),
      frozen_(plan_.model->frozen_layout(), *mesh_.frozen, plan_.frozen_units),
      trainable_(plan_.model->trainable_layout(), *mesh_.trainable, plan_.trainable_units),
      weights_(frozen_, trainable_, plan_.nesting),
      gradients_(*mesh_.reduce, trainable_.unit_layout(), plan_.model->device()),
      sink_(trainable_, gradients_),
      optimizer_(trainable_, gradients_, train_),
      batch_(make_batch(settings, plan_.model->vocab_size())) {
  at::manual_seed(1);
  for (train::Plane* plane : {&frozen_, &trainable_}) fill(*plane);
  if (settings_.probe == "fp8")
    plan_.probe->use_fp8(!plan_.train_base && frozen_.units().num_slots() == 0);
  if (!plan_.probe || plan_.probe_shares_weights) return;
  train::Plane& copied = plan_.train_base ? trainable_ : frozen_;
  probe_plane_ = std::make_unique<train::Plane>(copied, *mesh_.probe, plan_.probe_units);
  probe_weights_ = std::make_unique<train::ShardedWeights>(
      plan_.train_base ? frozen_ : *probe_plane_, plan_.train_base ? *probe_plane_ : trainable_,
      plan_.nesting);
}

// Matrices are small random numbers, norms 1: losses and gradients are of ordinary size.
void StepEngine::fill(train::Plane& plane) {
  plane.units().begin_update();
  const FlatLayout layout = plane.unit_layout();
  for (int unit = 0; unit < plane.units().num_units(); ++unit) {
    const at::Tensor& shard = plane.units().shard(unit);
    for (const FlatGroup& group : layout[static_cast<size_t>(unit)].groups) {
      const at::Tensor values = shard.narrow(0, group.offset, group.count);
      if (group.shape.size() > 1)
        values.normal_(0, 0.02);
      else
        values.fill_(1);
    }
  }
  plane.units().refresh();
}

int64_t StepEngine::num_parameters() const {
  return vax::num_parameters(plan_.model->base_layout());
}

train::PassModel StepEngine::model(bool probe) {
  if (!probe || !plan_.probe) return {.model = *plan_.model, .weights = weights_};
  return {.model = *plan_.probe, .weights = probe_weights_ ? *probe_weights_ : weights_};
}

std::unique_ptr<train::StepMethod> StepEngine::make_method(const std::string& name) {
  const int slots = frozen_.units().num_slots() + trainable_.units().num_slots() +
                    (probe_plane_ ? probe_plane_->units().num_slots() : 0);
  if (settings_.graphs && (slots > 0 || !ops::device::is_selected()))
    throw ConfigError("--graphs on: expected a GPU and weights that are not gathered");
  const train::StepContext context{.update = model(false),
                                   .probe = model(name != "vaccine"),
                                   .gradients = sink_,
                                   .world = *mesh_.world,
                                   .train = train_,
                                   .dropout = settings_.lora() ? 0.1 : 0,
                                   .device_world = mesh_.device_world.get(),
                                   .use_graphs = settings_.graphs};
  if (name == "sft") return std::make_unique<train::SftMethod>(context);
  return std::make_unique<vaccine::VaccineMethod>(context,
                                                  VaccineOptions{.probe_check_interval = 0});
}

StepTime StepEngine::step(train::StepMethod& method) {
  const Stopwatch watch;
  gradients_.zero();
  const train::StepBatch batch{
      .step = ++num_steps_, .micro_batches = {&batch_, 1}, .label_tokens = batch_.num_labels()};
  train::begin_step(weights_, probe_weights_ ? *probe_weights_ : weights_,
                    method.unit_uses(batch.step, 1));
  StepTime time;
  time.loss = method.run(batch).loss;
  gradients_.finish();
  time.passes_s = watch.elapsed_s();
  const double norm = optimizer_.gradient_norm();
  VAX_CHECK(std::isfinite(time.loss) && std::isfinite(norm), "loss ", time.loss, ", gradient norm ",
            norm);
  optimizer_.update(1e-5, std::min(1.0, train_.clip / (norm + 1e-6)));
  if (probe_plane_ && plan_.train_base) probe_plane_->units().refresh();
  ops::device::wait_for(trainable_.units().shard(0));
  time.step_s = watch.elapsed_s();
  return time;
}

}  // namespace vax::benchmarks
