#include "app/planning.h"

#include <cstdio>

#include "app/runtime_options.h"
#include "base/error.h"
#include "train/model_options.h"
#include "train/shard_options.h"
#include "train/train_options.h"

namespace vax::app {

train::ModelRequest request_of(const Options& options, const train::MethodDeclaration& method) {
  const auto& adapter = options.get<AdapterOptions>();
  const bool trains_adapter = adapter.type == AdapterType::kLora;
  const bool on_device = options.get<RuntimeOptions>().device == DeviceChoice::kCuda;
  if (method.probe_dtype == ProbeDtype::kFp8 && !on_device)
    throw ConfigError(cat(method.probe_option, ": expected same or bf16 on a CPU, found fp8"));
  train::ModelRequest request{.model = options.get<ModelOptions>(),
                              .merge = adapter.merge,
                              .shard = options.get<ShardOptions>(),
                              .train_base = !trains_adapter,
                              .seed = options.get<TrainOptions>().seed,
                              .probe_dtype = method.probe_dtype,
                              .on_device = on_device};
  if (trains_adapter) request.adapter = adapter;
  return request;
}

train::StepPlan plan_run(const Options& options, const train::ModelPlan& model,
                         const train::MethodMaker& method, const train::Layout& layout,
                         std::span<const train::Workload> workloads) {
  std::vector<size_t> num_micro_batches;
  for (const train::Workload& workload : workloads)
    num_micro_batches.push_back(static_cast<size_t>(workload.num_micro_batches));
  train::RecordingEngine recorder(*model.model);
  const auto plan_of = [&](int64_t step) {
    const auto recorded = method.make({.model = *model.model,
                                       .probe = model.probe ? *model.probe : *model.model,
                                       .device = at::kCPU});
    return train::plan_step(model, options.get<ShardOptions>(), layout, options.get<TrainOptions>(),
                            method.declaration, recorder.record(*recorded, step, num_micro_batches),
                            workloads);
  };
  train::StepPlan ordinary = plan_of(method.declaration.ordinary_step);
  ordinary.memory = plan_of(1).memory;
  return ordinary;
}

train::Workload workload_of(const data::Dataset& dataset, const TrainOptions& options,
                            int64_t global_batch, int num_ranks) {
  std::vector<int64_t> lengths, labels;
  for (const data::Sample& sample : dataset.samples) {
    lengths.push_back(sample.size());
    labels.push_back(sample.num_labels());
  }
  return train::workload_of(std::move(lengths), std::move(labels), global_batch,
                            options.micro_batch, num_ranks);
}

io::MemoryRecord memory_record(const train::MemoryParts& planned,
                               const train::MemoryParts& measured, int64_t process_bytes) {
  io::MemoryRecord record{.process_bytes = process_bytes};
  train::visit_memory(planned, [&](const char* name, int64_t bytes) {
    record.parts.push_back({.name = name, .planned_bytes = bytes});
  });
  size_t next = 0;
  train::visit_memory(
      measured, [&](const char*, int64_t bytes) { record.parts[next++].measured_bytes = bytes; });
  return record;
}

std::string bytes_text(int64_t num_bytes) {
  char text[32];
  const auto bytes = static_cast<double>(num_bytes);
  if (num_bytes < int64_t{10} << 20)
    std::snprintf(text, sizeof text, "%.1f KiB", bytes / 0x1p10);
  else if (num_bytes < int64_t{10} << 30)
    std::snprintf(text, sizeof text, "%.1f MiB", bytes / 0x1p20);
  else
    std::snprintf(text, sizeof text, "%.1f GiB", bytes / 0x1p30);
  return text;
}

std::string memory_text(const train::MemoryParts& parts) {
  std::string text;
  train::visit_memory(parts, [&](const char* name, int64_t bytes) {
    if (bytes > 0) text += cat(name, " ", bytes_text(bytes), ", ");
  });
  return cat(text, "in all ", bytes_text(parts.total()));
}

}  // namespace vax::app
