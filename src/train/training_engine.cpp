#include "train/training_engine.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "train/tensor_memory.h"

namespace vax::train {
namespace {

int64_t bytes_of(const ShardVector& vector) {
  int64_t sum = 0;
  for (const at::Tensor& shard : vector) sum += static_cast<int64_t>(shard.nbytes());
  return sum;
}

}  // namespace

MethodMaker maker_of(const MethodEntry& entry, const Options& options) {
  return {.declaration = entry.declare(options),
          .make = [&entry, &options](const MethodContext& context) {
            return entry.make(options, context);
          }};
}

bool passes_gather_nothing(const Mesh& mesh, const ModelState& state) {
  return mesh.world->size() == 1 && state.num_slots() == 0;
}

struct TrainingEngine::Parts {
  Parts(Mesh made, std::unique_ptr<ModelState> loaded, const EngineSettings& given)
      : mesh(std::move(made)),
        state(std::move(loaded)),
        settings(given),
        gradients(*mesh.reduce, state->trainable().layout().units(), state->model().device(),
                  mesh.trainable_node ? &*mesh.trainable_node : nullptr),
        sink(state->trainable(), gradients),
        optimizer(state->trainable(), gradients, settings.train) {}

  PassInputs pass_inputs() {
    return {.update = state->update_model(),
            .probe = state->probe_model(),
            .gradients = sink,
            .world = *mesh.world,
            .device_world = mesh.device_world.get(),
            .train = settings.train,
            .dropout = settings.dropout,
            .calls = mesh.calls.get(),
            .use_graphs = settings.use_graphs};
  }
  // Of the method that runs, and of its twin that is recorded, which has nothing to do on a device.
  MethodContext method_context(at::Device device) {
    return {.model = state->model(), .probe = state->probe_model().model, .device = device};
  }

  Mesh mesh;
  std::unique_ptr<ModelState> state;
  const EngineSettings settings;
  dist::ShardedGradients gradients;
  ShardedGradientSink sink;
  ShardedAdamW optimizer;
};

TrainingEngine::TrainingEngine(Mesh mesh, std::unique_ptr<ModelState> state,
                               const EngineSettings& settings)
    : TrainingEngine(std::make_unique<Parts>(std::move(mesh), std::move(state), settings)) {}

TrainingEngine::TrainingEngine(std::unique_ptr<Parts> parts)
    : PassEngine(parts->pass_inputs()),
      parts_(std::move(parts)),
      recorder_(parts_->state->model()) {
  for (int unit = 0; unit < parts_->state->trainable().units().num_units(); ++unit)
    gradient_.push_back(parts_->gradients.shard(unit));
}

TrainingEngine::~TrainingEngine() = default;

int TrainingEngine::add_method(const MethodMaker& method) {
  auto slot = std::make_unique<Slot>();
  slot->declaration = method.declaration;
  slot->method = method.make(parts_->method_context(parts_->state->model().device()));
  slot->twin = method.make(parts_->method_context(at::kCPU));
  for (size_t i = 0; i < method.declaration.vectors.size(); ++i)
    slot->vectors.push_back(zeros_like_shards());
  if (method.declaration.moves_weights) slot->unmoved = zeros_like_shards();
  slots_.push_back(std::move(slot));
  const int number = static_cast<int>(slots_.size()) - 1;
  use_method(number);
  return number;
}

void TrainingEngine::use_method(int number) {
  VAX_CHECK(number >= 0 && number < static_cast<int>(slots_.size()), "no method ", number);
  set_owner_of_works(number);
}

TrainingEngine::Slot& TrainingEngine::slot() const {
  return *slots_.at(static_cast<size_t>(owner_of_works()));
}

Method& TrainingEngine::method() { return *slot().method; }
const MethodDeclaration& TrainingEngine::declaration() const { return slot().declaration; }
ShardVector& TrainingEngine::vector(int index) {
  return slot().vectors.at(static_cast<size_t>(index));
}

Mesh& TrainingEngine::mesh() { return parts_->mesh; }
ModelState& TrainingEngine::state() { return *parts_->state; }
ShardedAdamW& TrainingEngine::optimizer() { return parts_->optimizer; }

ShardVector TrainingEngine::zeros_like_shards() {
  dist::ShardedUnits& units = parts_->state->trainable().units();
  ShardVector zeros;
  for (int unit = 0; unit < units.num_units(); ++unit)
    zeros.push_back(at::zeros(units.shard(unit).sizes(), units.shard(unit).options()));
  return zeros;
}

void TrainingEngine::begin_segment(size_t segment) {
  segment_ = segment;
  parts_->state->begin_segment(recording_.segments.at(segment));
}

StepOutcome TrainingEngine::run(const StepBatch& batch) {
  std::vector<size_t> num_micro_batches;
  for (const StreamBatch& stream : batch.streams)
    num_micro_batches.push_back(stream.micro_batches.size());
  Method& method = *slot().method;
  slot().twin->set_state(method.state());
  recording_ = recorder_.record(*slot().twin, batch.step, std::move(num_micro_batches));
  parts_->gradients.zero();
  is_reduced_ = false;
  segment_ = 0;
  parts_->state->begin_step(recording_.segments);
  // What was kept from the step before goes when the method runs.
  const int64_t held_before = tensor_bytes() - method.kept_bytes();
  reset_tensor_peak();
  begin(batch);
  const StepOutcome outcome = method.step(*this);
  most_kept_ = std::max(most_kept_, method.kept_bytes());
  most_activations_ =
      std::max(most_activations_, tensor_peak_bytes() - held_before - method.kept_bytes());
  VAX_CHECK(!is_moved_, "a step has ended with its weights moved");
  VAX_CHECK(segment_ + 1 == recording_.segments.size(), "a step has changed its weights ", segment_,
            " times, its record ", recording_.segments.size() - 1);
  set_phase("update");
  if (!is_reduced_) reduce();
  return outcome;
}

const ShardVector& TrainingEngine::reduce() {
  parts_->gradients.finish();
  dist::Collectives& replicas = *parts_->mesh.replicas;
  is_reduced_ = true;
  if (replicas.size() == 1) return gradient_;
  for (at::Tensor& shard : gradient_)
    replicas
        .all_reduce(shard.data_ptr(), shard.numel(), dist::DataType::kFloat32, dist::ReduceOp::kSum)
        .wait();
  return gradient_;
}

double TrainingEngine::gradient_norm() { return parts_->optimizer.gradient_norm(); }

void TrainingEngine::clear_gradient() {
  VAX_CHECK(is_reduced_, "a gradient is cleared whose reductions have not ended");
  parts_->gradients.zero();
  is_reduced_ = false;
}

void TrainingEngine::change_weights(
    const std::function<void(int unit, at::Tensor& shard)>& change) {
  dist::ShardedUnits& units = parts_->state->trainable().units();
  units.begin_update();
  for (int unit = 0; unit < units.num_units(); ++unit) change(unit, units.shard(unit));
  units.refresh();
  parts_->state->refresh_probe();
  begin_segment(segment_ + 1);
}

void TrainingEngine::move(const ShardVector& direction, double factor) {
  VAX_CHECK(slot().declaration.moves_weights, "a method that moves weights declares it");
  VAX_CHECK(!is_moved_, "weights are moved that are moved already");
  is_moved_ = true;
  change_weights([&](int unit, at::Tensor& shard) {
    slot().unmoved[static_cast<size_t>(unit)].copy_(shard);
    shard.add_(direction.at(static_cast<size_t>(unit)), factor);
  });
}

void TrainingEngine::restore() {
  VAX_CHECK(is_moved_, "weights are put back that have not been moved");
  is_moved_ = false;
  change_weights(
      [&](int unit, at::Tensor& shard) { shard.copy_(slot().unmoved[static_cast<size_t>(unit)]); });
}

void TrainingEngine::update(double lr, double grad_scale) {
  parts_->optimizer.update(lr, grad_scale);
  parts_->state->refresh_probe();
}

void TrainingEngine::end_steps() { parts_->state->begin_step({}); }

MemoryParts TrainingEngine::measured_memory() const {
  const ModelState& state = *parts_->state;
  const dist::ShardedUnits &frozen = state.frozen().units(), &trainable = state.trainable().units();
  MemoryParts parts{.weights = frozen.shard_bytes() + trainable.shard_bytes(),
                    .slots = frozen.slot_bytes() + trainable.slot_bytes() + state.fp8_bytes(),
                    .gradients = parts_->gradients.num_bytes(),
                    .optimizer = parts_->optimizer.num_bytes(),
                    .activations = most_activations_,
                    .perturbation = most_kept_};
  if (const Plane* probe = state.probe_plane()) parts.slots += probe->units().slot_bytes();
  for (const ShardVector& vector : slot().vectors) parts.vectors += bytes_of(vector);
  parts.vectors += bytes_of(slot().unmoved);
  return parts;
}

double TrainingEngine::waited_s() const {
  return parts_->mesh.blocked_s() + parts_->gradients.waited_s();
}

}  // namespace vax::train
