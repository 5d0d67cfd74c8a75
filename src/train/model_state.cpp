#include "train/model_state.h"

#include <utility>

#include "base/error.h"
#include "base/stopwatch.h"

namespace vax::train {
namespace {

model::LoraSpec lora_of(const ModelRequest& request, const model::Spec& spec,
                        const std::optional<io::PeftAdapter>& initial) {
  if (!request.adapter) return {};
  if (initial)
    return model::make_lora_spec(spec, initial->config().r, initial->config().alpha,
                                 initial->config().targets);
  return model::make_lora_spec(spec, request.adapter->r, request.adapter->alpha,
                               request.adapter->targets);
}

std::optional<io::PeftAdapter> open_initial(const ModelRequest& request) {
  if (!request.adapter || request.adapter->init.empty()) return std::nullopt;
  return io::PeftAdapter::open(request.adapter->init);
}

}  // namespace

ModelState::ModelState(const ModelRequest& request, const model::Spec& spec)
    : ModelState(request, spec, open_initial(request)) {}

ModelState::ModelState(const ModelRequest& request, const model::Spec& spec,
                       std::optional<io::PeftAdapter> initial)
    : initial_(std::move(initial)),
      initial_directory_(request.adapter ? request.adapter->init : ""),
      seed_(request.seed),
      plan_(request, spec, lora_of(request, spec, initial_)) {
  base_ = std::make_unique<BaseWeights>(request.model.path, model().base_layout(),
                                        model().spec().names.ignored, request.merge);
}

ModelState::ModelState(ModelPlan plan) : plan_(std::move(plan)) {}

void ModelState::allocate(Mesh& mesh) {
  const auto on_node = [](dist::ShardedUnitsOptions options,
                          const std::optional<dist::Communicator>& node) {
    VAX_CHECK(options.node_shared == node.has_value(), "the mesh was made for other placements");
    if (node) options.node = &*node;
    return options;
  };
  frozen_ = std::make_unique<Plane>(model().frozen_layout(), *mesh.frozen,
                                    on_node(plan_.frozen_units, mesh.frozen_node));
  trainable_ = std::make_unique<Plane>(model().trainable_layout(), *mesh.trainable,
                                       on_node(plan_.trainable_units, mesh.trainable_node));
  begin_update();
  weights_ = std::make_unique<ShardedWeights>(*frozen_, *trainable_);
  if (!plan_.probe) return;
  // Frozen weights that lie whole on this rank stay where they are.
  if (plan_.probe_is_fp8)
    plan_.probe->use_fp8(!plan_.train_base && frozen_->units().num_slots() == 0);
  if (plan_.probe_shares_weights) return;
  Plane& copied = plan_.train_base ? *trainable_ : *frozen_;
  probe_plane_ = std::make_unique<Plane>(
      copied, *mesh.probe,
      on_node(plan_.probe_units, plan_.train_base ? mesh.trainable_node : mesh.frozen_node));
  probe_weights_ = std::make_unique<ShardedWeights>(plan_.train_base ? *frozen_ : *probe_plane_,
                                                    plan_.train_base ? *probe_plane_ : *trainable_);
}

void ModelState::read() {
  const Stopwatch watch;
  VAX_CHECK(base_ != nullptr, "a model without files is read");
  if (plan_.train_base) {
    load_base(*trainable_, *base_);
  } else {
    load_base(*frozen_, *base_);
    if (initial_)
      load_lora(*trainable_, *initial_, initial_directory_);
    else
      init_lora(*trainable_, seed_);
  }
  base_.reset();
  load_s_ = watch.elapsed_s();
}

void ModelState::publish() {
  for (Plane* plane : {frozen_.get(), trainable_.get()}) plane->units().refresh();
  if (probe_plane_) probe_plane_->units().refresh();
}

void ModelState::begin_update() {
  for (Plane* plane : {frozen_.get(), trainable_.get()}) plane->units().begin_update();
}

std::unique_ptr<ModelState> ModelState::load(const ModelRequest& request, const model::Spec& spec,
                                             Mesh& mesh) {
  auto state = std::make_unique<ModelState>(request, spec);
  state->allocate(mesh);
  state->read();
  state->publish();
  return state;
}

PassModel ModelState::probe_model() {
  if (!plan_.probe) return update_model();
  return {.model = *plan_.probe, .weights = probe_weights_ ? *probe_weights_ : *weights_};
}

std::vector<Plane*> ModelState::planes(bool changing) {
  std::vector<Plane*> found = {changing ? trainable_.get() : frozen_.get()};
  if (probe_plane_ && plan_.train_base == changing) found.push_back(probe_plane_.get());
  return found;
}

void ModelState::announce(const std::vector<Plane*>& planes, const std::vector<UnitUse>& uses) {
  ShardedWeights& probe = probe_weights_ ? *probe_weights_ : *weights_;
  for (Plane* const plane : planes) {
    std::vector<int> units;
    for (const UnitUse& use : uses) {
      ShardedWeights& source = use.probe ? probe : *weights_;
      if (&source.frozen() == plane || &source.trainable() == plane) units.push_back(use.unit);
    }
    plane->units().begin_step(plane->layout().events_of(units, model().held_together()));
  }
}

void ModelState::begin_step(const std::vector<std::vector<UnitUse>>& segments) {
  std::vector<UnitUse> whole_step;
  for (const std::vector<UnitUse>& uses : segments)
    whole_step.insert(whole_step.end(), uses.begin(), uses.end());
  announce(planes(/*changing=*/false), whole_step);
  announce(planes(/*changing=*/true), segments.empty() ? std::vector<UnitUse>() : segments[0]);
}

void ModelState::begin_segment(const std::vector<UnitUse>& uses) {
  announce(planes(/*changing=*/true), uses);
}

void ModelState::begin_forward() {
  std::vector<UnitUse> uses;
  for (const int unit : model().unit_uses(/*with_backward=*/false)) uses.push_back({.unit = unit});
  begin_step({uses});
}

void ModelState::refresh_probe() {
  if (probe_plane_ && plan_.train_base) probe_plane_->units().refresh();
}

int ModelState::num_slots() const {
  return frozen_->units().num_slots() + trainable_->units().num_slots() +
         (probe_plane_ ? probe_plane_->units().num_slots() : 0);
}

int64_t ModelState::num_parameters() const { return vax::num_parameters(model().base_layout()); }

int64_t ModelState::num_trainable() const {
  return vax::num_parameters(model().trainable_layout());
}

}  // namespace vax::train
