// vaccine plan: what a training run will need, from config.json and the options alone: memory of a
// rank by what it is for, bytes on the wire per step, the size of a checkpoint, and with --schedule
// what is gathered when.
// Rows are taken to fill data.max_length, every token but the first a label: the most it can be.
#include <cstdio>

#include "app/model_loading.h"
#include "app/plan_options.h"
#include "app/planning.h"
#include "app/runtime_options.h"
#include "app/session.h"
#include "base/error.h"
#include "base/narrow.h"
#include "data/data_options.h"
#include "train/checkpoint_options.h"
#include "train/model_options.h"
#include "train/train_options.h"

namespace vax::app {
namespace {

train::Layout layout_of(const Session& session) {
  const PlanOptions& options = session.options.get<PlanOptions>();
  const int64_t ranks = options.ranks.value_or(session.world.size());
  const int64_t per_node = options.ranks_per_node.value_or(ranks);
  if (per_node > ranks || ranks % per_node != 0)
    throw ConfigError(cat("plan.ranks_per_node: expected a divisor of the number of ranks = ",
                          ranks, ", found ", per_node));
  return {.num_ranks = narrow<int>(ranks),
          .ranks_per_node = narrow<int>(per_node),
          .on_device = session.options.get<RuntimeOptions>().device == DeviceChoice::kCuda};
}

void print_bytes(const char* name, int64_t bytes) {
  if (bytes > 0) std::printf("  %-14s %12s\n", name, bytes_text(bytes).c_str());
}

// The data of a checkpoint: weights and both moments of what is trained, and the frozen weights
// where they are asked for.
int64_t checkpoint_bytes(const Options& options, const train::ModelPlan& model) {
  constexpr int64_t kTrainedBytes = 3 * sizeof(float);
  int64_t bytes = kTrainedBytes * num_parameters(model.model->trainable_layout());
  if (!options.get<CheckpointOptions>().adapter_only.value_or(true))
    bytes += num_parameters(model.model->frozen_layout()) *
             static_cast<int64_t>(c10::elementSize(model.frozen_units.shard_dtype));
  return bytes;
}

void print_wire(const train::WireBytes& wire) {
  std::printf("sent by a rank in a step%s\n", wire.total() == 0 ? ": nothing" : "");
  print_bytes("frozen", wire.frozen);
  print_bytes("trainable", wire.trainable);
  print_bytes("probe", wire.probe);
  print_bytes("gradients", wire.reduce);
  print_bytes("replicas", wire.replicas);
  print_bytes("in all", wire.total());
}

void print_schedule(const train::PlanePlan& plane) {
  const dist::Schedule& schedule = plane.changes ? plane.units.first : plane.units.steady;
  if (schedule.entries.empty()) {
    std::printf("\n%s: nothing is gathered\n", plane.name.c_str());
    return;
  }
  std::printf("\n%s: %d slots, a step %s\n%s", plane.name.c_str(), plane.units.num_slots,
              plane.changes ? "that begins with nothing gathered" : "like those before",
              dist::to_string(schedule, plane.unit_names).c_str());
}

}  // namespace

void run_plan(const Session& session) {
  together(session.world, [&] {
    const Options& options = session.options;
    const train::Layout layout = layout_of(session);
    const auto& adapter = options.get<AdapterOptions>();
    const auto& train = options.get<TrainOptions>();
    const model::Spec spec = read_spec(session, options.get<ModelOptions>().path);
    const train::MethodMaker method =
        train::maker_of(session.catalogue.methods.find(train.method), options);
    const train::ModelPlan model(
        request_of(options, method.declaration), spec,
        adapter.type == AdapterType::kLora
            ? model::make_lora_spec(spec, adapter.r, adapter.alpha, adapter.targets)
            : model::LoraSpec{});
    std::vector<int64_t> global_batches = {train.global_batch};
    for (const train::StreamDeclaration& stream : method.declaration.streams)
      global_batches.push_back(stream.global_batch);
    const int64_t length = options.get<DataOptions>().max_length;
    std::vector<train::Workload> workloads;
    for (const int64_t rows : global_batches)
      workloads.push_back(
          train::workload_of(std::vector<int64_t>(static_cast<size_t>(rows), length),
                             std::vector<int64_t>(static_cast<size_t>(rows), length - 1), rows,
                             train.micro_batch, layout.num_ranks));
    const train::Workload& workload = workloads[0];
    const train::StepPlan plan = plan_run(options, model, method, layout, workloads);
    if (!session.is_root()) return;
    std::printf("%s on %d ranks, %d a node: %ld tokens a micro-batch, %ld micro-batches\n",
                train.method.c_str(), layout.num_ranks, layout.ranks_per_node,
                static_cast<long>(workload.micro_tokens),
                static_cast<long>(workload.num_micro_batches));
    std::printf("a checkpoint has %s of data\n",
                bytes_text(checkpoint_bytes(options, model)).c_str());
    std::printf("memory of a rank\n");
    train::visit_memory(plan.memory, print_bytes);
    print_bytes("in all", plan.memory.total());
    print_wire(plan.wire);
    if (!options.get<PlanOptions>().schedule) return;
    for (const train::PlanePlan& plane : plan.planes) print_schedule(plane);
  });
}

}  // namespace vax::app
