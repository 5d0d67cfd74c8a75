// A training run's plan from its options: what `vaccine plan` prints and a run reports of itself.
#pragma once

#include <span>
#include <string>

#include "base/option_set.h"
#include "data/dataset.h"
#include "io/run_records.h"
#include "train/step_plan.h"
#include "train/training_engine.h"

namespace vax::app {

// The model and its placement that the options of a training run (or `plan`) ask for. THROWS
// ConfigError for a probe that the device does not have.
train::ModelRequest request_of(const Options& options, const train::MethodDeclaration& method);

// Memory as the step needs it that needs most; traffic and schedule as those of an ordinary one
// (MethodDeclaration::ordinary_step). `workloads`: of the run's data and of the method's streams.
train::StepPlan plan_run(const Options& options, const train::ModelPlan& model,
                         const train::MethodMaker& method, const train::Layout& layout,
                         std::span<const train::Workload> workloads);

// What the longest rows of the data could ask of a rank.
train::Workload workload_of(const data::Dataset& dataset, const TrainOptions& options,
                            int64_t global_batch, int num_ranks);

// Planned beside measured; both empty-handed parts are left out.
io::MemoryRecord memory_record(const train::MemoryParts& planned,
                               const train::MemoryParts& measured, int64_t process_bytes);

// "1.50 GiB".
std::string bytes_text(int64_t num_bytes);
// "weights 1.50 GiB, slots 0.20 GiB, ...; 1.70 GiB in all".
std::string memory_text(const train::MemoryParts& parts);

}  // namespace vax::app
