#include "train/model_state.h"

#include <filesystem>

#include "base/error.h"
#include "base/stopwatch.h"
#include "model/families/built_in.h"

namespace vax::train {
namespace {

model::Spec spec_of(const ModelRequest& request) {
  return model::built_in_families().read(std::filesystem::path(request.model.path) / "config.json");
}

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

int64_t gathered_bytes(const FlatLayout& layout, at::ScalarType type) {
  int64_t count = 0;
  for (const FlatUnit& unit : layout) count += unit.count;
  return count * static_cast<int64_t>(at::elementSize(type));
}

ModelPlan plan_of(const ModelRequest& request, const std::optional<io::PeftAdapter>& initial) {
  const model::Spec spec = spec_of(request);
  return ModelPlan(request, spec, lora_of(request, spec, initial));
}

// Planes gather into memory of their own: the budget is divided by their sizes.
void divide_residency(double residency_gib, ModelPlan& plan) {
  const int64_t frozen =
      gathered_bytes(plan.model->frozen_layout(), plan.frozen_units.gather_dtype);
  const int64_t trainable =
      gathered_bytes(plan.model->trainable_layout(), plan.trainable_units.gather_dtype);
  const FlatLayout& copied =
      plan.train_base ? plan.model->trainable_layout() : plan.model->frozen_layout();
  const int64_t probe = plan.probe && !plan.probe_shares_weights
                            ? gathered_bytes(copied, plan.probe_units.gather_dtype)
                            : 0;
  const double per_byte = residency_gib / static_cast<double>(frozen + trainable + probe);
  plan.frozen_units.residency_gib = per_byte * static_cast<double>(frozen);
  plan.trainable_units.residency_gib = per_byte * static_cast<double>(trainable);
  plan.probe_units.residency_gib = per_byte * static_cast<double>(probe);
}

}  // namespace

at::ScalarType compute_dtype_of(const ModelOptions& options) {
  return options.dtype == ModelDtype::kBf16 ? at::kBFloat16 : at::kFloat;
}

ModelPlan::ModelPlan(const ModelRequest& request, const model::Spec& spec,
                     const model::LoraSpec& lora)
    : train_base(request.train_base) {
  const at::ScalarType compute = compute_dtype_of(request.model);
  model = model::make_model(spec, lora, train_base, compute, request.device);
  probe_is_fp8 = request.probe_dtype == ProbeDtype::kFp8;
  probe_shares_weights = probe_is_fp8 && compute == at::kBFloat16;
  if (probe_is_fp8 || (request.probe_dtype == ProbeDtype::kBf16 && compute != at::kBFloat16))
    probe = model::make_model(spec, lora, train_base, at::kBFloat16, request.device);
  if (const auto held = model->held_together())
    nesting = {.outer = held->outer, .inner = held->inner};

  dist::ShardedUnitsOptions common{.prefetch = static_cast<int>(request.shard.prefetch),
                                   .held_at_once = nesting ? 2 : 1,
                                   .device = request.device};
  // Frozen weights are stored as they are computed with, trainable ones have fp32 masters.
  frozen_units = trainable_units = common;
  frozen_units.shard_dtype = frozen_units.gather_dtype = compute;
  check_placements(request.shard, request.on_device);
  frozen_units.node_shared = request.shard.frozen != Placement::kFull && !request.on_device;
  frozen_units.replicate = request.shard.frozen == Placement::kReplicate && request.on_device;
  trainable_units.gather_dtype = train_base ? compute : at::kFloat;
  trainable_units.node_shared = request.shard.trainable == Placement::kNode;
  trainable_units.replicate = request.shard.trainable == Placement::kReplicate;
  probe_units = train_base ? trainable_units : frozen_units;
  probe_units.gather_dtype = at::kBFloat16;
  divide_residency(request.shard.residency_gib, *this);
}

ModelState::ModelState(const ModelRequest& request) : ModelState(request, open_initial(request)) {}

ModelState::ModelState(const ModelRequest& request, std::optional<io::PeftAdapter> initial)
    : request_(request),
      initial_(std::move(initial)),
      plan_(plan_of(request_, initial_)),
      base_(std::make_unique<BaseWeights>(request_.model.path, model().base_layout(),
                                          model().spec().names.ignored, request_.merge)) {}

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
  weights_ = std::make_unique<ShardedWeights>(*frozen_, *trainable_, plan_.nesting);
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
                                                    plan_.train_base ? *probe_plane_ : *trainable_,
                                                    plan_.nesting);
}

void ModelState::read() {
  const Stopwatch watch;
  if (request_.train_base) {
    load_base(*trainable_, *base_);
  } else {
    load_base(*frozen_, *base_);
    if (initial_)
      load_lora(*trainable_, *initial_, request_.adapter->init);
    else
      init_lora(*trainable_, request_.seed);
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

ModelState ModelState::load(const ModelRequest& request, Mesh& mesh) {
  ModelState state(request);
  state.allocate(mesh);
  state.read();
  state.publish();
  return state;
}

PassModel ModelState::probe_model() {
  if (!plan_.probe) return update_model();
  return {.model = *plan_.probe, .weights = probe_weights_ ? *probe_weights_ : *weights_};
}

void ModelState::begin_step(const std::vector<UnitUse>& uses) {
  train::begin_step(*weights_, probe_weights_ ? *probe_weights_ : *weights_, uses);
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
