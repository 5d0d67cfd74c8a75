// A training run's plan from its options: what `vaccine plan` prints and a run reports of itself.
#pragma once

#include <string>
#include <vector>

#include "base/option_set.h"
#include "data/dataset.h"
#include "io/run_records.h"
#include "train/step_plan.h"

namespace vax::app {

// The model and its placement that the options of a training run (or `plan`) ask for.
train::ModelRequest request_of(const Options& options);

// Step `step` of the method that train.method names.
train::MethodPlan method_plan(const Options& options, const train::ModelPlan& model, int64_t step,
                              int64_t num_micro_batches);

// Memory as the step needs it that needs most (one that checks its probe, where there is one);
// traffic and schedule as those of the ordinary two-pass step.
train::StepPlan plan_run(const Options& options, const train::ModelPlan& model,
                         const train::Layout& layout, const train::Workload& workload);

// What the longest rows of the data could ask of a rank.
train::Workload workload_of(const data::Dataset& dataset, const Options& options, int num_ranks);

// Planned beside measured; both empty-handed parts are left out.
io::MemoryRecord memory_record(const train::MemoryParts& planned,
                               const train::MemoryParts& measured, int64_t process_bytes);

// "1.50 GiB".
std::string bytes_text(int64_t num_bytes);
// "weights 1.50 GiB, slots 0.20 GiB, ...; 1.70 GiB in all".
std::string memory_text(const train::MemoryParts& parts);

}  // namespace vax::app
