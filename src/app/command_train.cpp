// vaccine align, vaccine finetune: one training run from options to the output directory.
#include <filesystem>
#include <map>

#include "app/model_loading.h"
#include "app/planning.h"
#include "app/resolved_config.h"
#include "app/resuming.h"
#include "app/runtime_options.h"
#include "app/session.h"
#include "base/error.h"
#include "base/json_text.h"
#include "base/log.h"
#include "base/stopwatch.h"
#include "data/data_options.h"
#include "train/checkpoint_options.h"
#include "train/checkpointer.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/saver.h"
#include "train/step_figures.h"
#include "train/train_options.h"
#include "train/trainer.h"
#include "vaccine/drift.h"
#include "vaccine/drift_options.h"
#include "vaccine/vaccine_method.h"
#include "vaccine/vaccine_options.h"

#ifndef VAX_VERSION
#error "VAX_VERSION is set by CMake"
#endif

namespace vax::app {
namespace {

namespace fs = std::filesystem;

bool trains_adapter(const Options& options) {
  return options.get<AdapterOptions>().type == AdapterType::kLora;
}

// An adapter that is gone on from brings its shape; an option that says otherwise is a mistake. The
// options take over its values, so that the stored configuration says what was trained.
void adopt_initial_adapter(const Session& session, Options& options) {
  AdapterOptions& adapter = options.get<AdapterOptions>();
  if (adapter.init.empty()) return;
  const io::AdapterConfig config = io::read_adapter_config(adapter.init);
  const CommandLine& given = session.command_line;
  const auto reject = [&](const char* key, const auto& found, const auto& expected) {
    throw ConfigError(cat("adapter.", key, " (", given.where(cat("adapter.", key)), "): expected ",
                          expected, ", the value of adapter.init = ", adapter.init, ", found ",
                          found));
  };
  if (given.given("adapter.r") && adapter.r != config.r) reject("r", adapter.r, config.r);
  if (given.given("adapter.alpha") && adapter.alpha != config.alpha)
    reject("alpha", adapter.alpha, config.alpha);
  if (given.given("adapter.targets")) {
    const model::Spec spec = read_spec(options);
    const model::LoraSpec asked = model::make_lora_spec(spec, config.r, 1, adapter.targets);
    if (asked.targets != model::make_lora_spec(spec, config.r, 1, config.targets).targets)
      reject("targets", "other layers", "the layers");
  }
  adapter.r = config.r;
  adapter.alpha = config.alpha;
  adapter.targets = config.targets;
}

// What only the model can tell, before it is loaded.
void check_against_model(const Options& options) {
  if (options.get<TrainOptions>().method != "vaccine") return;
  const model::Spec spec = read_spec(options);
  vaccine::Perturbation(options.get<VaccineOptions>(), static_cast<int>(spec.num_layers),
                        {.width = spec.hidden_size});
}

io::StartRecord start_record(const Session& session, const Options& options,
                             const data::Dataset& dataset, const train::ModelState& state) {
  std::map<std::string, std::map<std::string, Json>> config;
  for (const OptionJson& option : to_json_values(session.table(), options))
    config[option.section].emplace(option.key, Json::parse(option.json, option.key));
  io::StartRecord record{.version = VAX_VERSION,
                         .world_size = session.world.size(),
                         .config_json = JsonText(config).text(),
                         .model_path = options.get<ModelOptions>().path,
                         .model_parameters = state.num_parameters(),
                         .model_trainable = state.num_trainable()};
  for (const data::DataSource& source : dataset.sources)
    record.data.push_back(
        {.role = source.role, .path = source.path, .sha256 = source.sha256, .rows = source.rows});
  return record;
}

void report_data(const data::Dataset& dataset) {
  log::info(cat("data: ", dataset.samples.size(), " rows"));
  if (dataset.num_cut > 0) log::info(cat(dataset.num_cut, " rows are cut to data.max_length"));
  if (dataset.num_without_labels > 0)
    log::warning(cat(dataset.num_without_labels,
                     " rows have no label left: their prompts fill data.max_length"));
}

std::unique_ptr<train::StepMethod> make_method(const Options& options,
                                               const train::StepContext& context) {
  if (options.get<TrainOptions>().method == "sft")
    return std::make_unique<train::SftMethod>(context);
  VAX_CHECK(options.get<TrainOptions>().method == "vaccine", options.get<TrainOptions>().method);
  return std::make_unique<vaccine::VaccineMethod>(context, options.get<VaccineOptions>());
}

// Keeps the reference before the first step and measures when drift.interval or the end says so.
auto drift_observer(const Options& options, vaccine::DriftMeter& meter, train::ModelState& state) {
  return [&](int64_t step, bool is_last) -> std::optional<io::DriftRecord> {
    if (step == 0) {
      meter.set_reference(state.model(), state.weights());
      return std::nullopt;
    }
    const int64_t interval = options.get<DriftOptions>().interval;
    if (!is_last && (interval == 0 || step % interval != 0)) return std::nullopt;
    return meter.measure(state.model(), state.weights(), step);
  };
}

void save(const Options& options, train::ModelState& state, bool is_writer) {
  const fs::path output = options.get<OutputOptions>().dir;
  if (trains_adapter(options))
    train::save_adapter(state, output / "adapter", options.get<ModelOptions>().path,
                        options.get<AdapterOptions>().dropout, is_writer);
  else
    train::save_model(state, output / "model", options.get<ModelOptions>().path, is_writer);
}

// Of the fullest rank. COLLECTIVE.
train::MemoryParts planned_memory(const Session& session, dist::Collectives& world,
                                  const Options& options, const data::Dataset& dataset,
                                  const train::ModelState& state,
                                  const vaccine::DriftMeter& meter) {
  const int num_ranks = session.world.size();
  const train::Layout layout{.num_ranks = num_ranks,
                             .ranks_per_node = session.environment.local_size(),
                             .on_device = session.device.context.has_value()};
  train::MemoryParts parts =
      plan_run(options, state.plan(), layout, workload_of(dataset, options, num_ranks)).memory;
  parts.drift = meter.reference_bytes(state.model());
  world.all_reduce(&parts.drift, 1, dist::DataType::kInt64, dist::ReduceOp::kMax).wait();
  return parts;
}

// The fullest rank of each part. COLLECTIVE.
void report_memory(const Session& session, dist::Collectives& world,
                   const train::MemoryParts& planned, train::MemoryParts measured,
                   train::RunOutputs* outputs) {
  int64_t process_bytes = train::peak_memory_bytes();
  std::vector<int64_t> most;
  train::visit_memory(measured, [&](const char*, int64_t bytes) { most.push_back(bytes); });
  most.push_back(process_bytes);
  world
      .all_reduce(most.data(), static_cast<int64_t>(most.size()), dist::DataType::kInt64,
                  dist::ReduceOp::kMax)
      .wait();
  size_t next = 0;
  train::visit_memory(measured, [&](const char*, int64_t& bytes) { bytes = most[next++]; });
  process_bytes = most[next];
  if (!session.is_root()) return;
  outputs->memory(memory_record(planned, measured, process_bytes));
  log::info(cat("memory of the fullest rank, measured: ", memory_text(measured),
                "; the process with everything ", bytes_text(process_bytes)));
}

io::CheckpointManifest describe_run(const Session& session, const Options& options,
                                    const io::StartRecord& start, const train::Trainer& trainer) {
  return {.program_version = VAX_VERSION,
          .config = to_ini(session.table(), options),
          .data = start.data,
          .world_size = session.world.size(),
          .position = {.num_steps = trainer.num_steps(),
                       .steps_per_epoch = trainer.steps_per_epoch(),
                       .seed = options.get<TrainOptions>().seed}};
}

// Weights and moments of the checkpoint in place of the initial ones. COLLECTIVE.
void restore(const Session& session, const ResumePoint& point, train::ModelState& state,
             train::Trainer& trainer) {
  if (!point.checkpoint) return;
  const Stopwatch watch;
  if (point.steps_done() > trainer.num_steps())
    throw AgreedError(cat("checkpoint.resume: the checkpoint stands at step ", point.steps_done(),
                          ", this run has ", trainer.num_steps(), " steps"),
                      kBadInput);
  state.begin_update();
  together(session.world,
           [&] { train::read_state(*point.checkpoint, state, trainer.optimizer()); });
  state.publish();
  if (session.is_root())
    log::info(cat("going on after step ", point.steps_done(), " of ",
                  point.checkpoint->directory().string(), ", read in ", watch.elapsed_s(), " s"));
}

// On rank 0; null on the others. COLLECTIVE.
std::unique_ptr<train::RunOutputs> open_outputs(const Session& session, const Options& options,
                                                const ResumePoint& point,
                                                const io::StartRecord& start) {
  std::unique_ptr<train::RunOutputs> outputs;
  together(session.world, [&] {
    if (!session.is_root()) return;
    clear_way(point, options);
    train::RunDescription run{.directory = options.get<OutputOptions>().dir,
                              .config_text = to_ini(session.table(), options),
                              .start = start,
                              .figures = train::step_figures(),
                              .log_interval = options.get<OutputOptions>().log_interval};
    if (point.checkpoint)
      run.resume = {.step = point.steps_done(),
                    .path = point.checkpoint->directory().string(),
                    .rejected = point.rejected,
                    .world_size = session.world.size()};
    outputs = std::make_unique<train::RunOutputs>(run);
  });
  return outputs;
}

// What a run is made of before its first step.
struct Inputs {
  data::Dataset dataset;
  std::vector<PackedBatch> drift_batches;
};

// COLLECTIVE.
Inputs read_inputs(const Session& session, const ResumePoint& point, Options& options) {
  Inputs inputs;
  std::vector<std::string> differences;
  together(session.world, [&] {
    adopt_initial_adapter(session, options);
    check_against_model(options);
    const data::Tokenizer tokenizer = load_tokenizer(options);
    inputs.dataset = data::build_dataset(options.get<DataOptions>(), tokenizer,
                                         options.subcommand == "finetune");
    check_lengths(inputs.dataset, options);
    inputs.drift_batches = drift_batches(options, tokenizer);
    if (point.checkpoint)
      differences =
          check_same_run(session.table(), point.checkpoint->manifest(), options, inputs.dataset);
  });
  if (!session.is_root()) return inputs;
  report_data(inputs.dataset);
  for (const std::string& difference : differences) log::warning(difference);
  return inputs;
}

// The steps, with checkpoints. Returns the steps done. COLLECTIVE.
int64_t run_steps(int64_t steps_done, train::Trainer& trainer, train::Checkpointer& checkpointer,
                  train::RunOutputs* outputs) {
  int64_t steps = 0;
  const auto after_step = [&](int64_t step) {
    return checkpointer.after_step(step, step == trainer.num_steps());
  };
  try {
    steps = trainer.run({.steps_done = steps_done, .outputs = outputs, .after_step = after_step});
  } catch (const train::DivergenceError&) {
    // What was good before stays good.
    checkpointer.finish();
    throw;
  }
  if (steps == trainer.num_steps()) train::StopSignals::lift_limit();
  checkpointer.finish();
  if (steps == trainer.num_steps() || outputs == nullptr) return steps;
  outputs->end("stopped", steps);
  log::info(cat("stopped on request after step ", steps, " of ", trainer.num_steps(),
                "; to go on, start again with --checkpoint.resume auto"));
  return steps;
}

}  // namespace

ExitCode run_training(const Session& session) {
  Options options = session.options;
  const train::StopSignals signals(options.get<CheckpointOptions>().signals,
                                   options.get<CheckpointOptions>().stop_limit_s, kCommFailed);
  const bool is_root = session.is_root();
  const ResumePoint point = choose_resume_point(session);
  train::Mesh mesh = make_mesh(session, !trains_adapter(options));
  const Inputs inputs = read_inputs(session, point, options);
  const auto state = load_model(session, mesh, request_of(options));

  vaccine::DriftMeter meter(inputs.drift_batches, *mesh.world);
  train::MemoryParts planned =
      planned_memory(session, *mesh.world, options, inputs.dataset, *state, meter);
  train::Trainer trainer(
      {.train = options.get<TrainOptions>(),
       .data = options.get<DataOptions>(),
       .mesh = mesh,
       .state = *state,
       .dataset = inputs.dataset,
       .dropout = trains_adapter(options) ? options.get<AdapterOptions>().dropout : 0,
       .graphs = options.get<RuntimeOptions>().graphs,
       .rho = options.get<TrainOptions>().method == "vaccine"
                  ? std::optional(options.get<VaccineOptions>().rho)
                  : std::nullopt,
       .make_method =
           [&](const train::StepContext& context) { return make_method(options, context); },
       .measure_drift = drift_observer(options, meter, *state)});
  together(session.world, [&] { trainer.check_batches(); });
  trainer.keep_reference();
  restore(session, point, *state, trainer);

  const io::StartRecord start = start_record(session, options, inputs.dataset, *state);
  const auto outputs = open_outputs(session, options, point, start);
  session.watchdog.set_record_directory(options.get<OutputOptions>().dir);
  train::Checkpointer checkpointer(
      {.options = options.get<CheckpointOptions>(),
       .world = session.world,
       .mesh = mesh,
       .arrays = train::state_arrays(
           *state, trainer.optimizer(),
           trains_adapter(options) && options.get<CheckpointOptions>().adapter_only.value_or(true)),
       .root = checkpoint_root(options),
       .description = describe_run(session, options, start, trainer),
       .requests = train::RequestFiles(options.get<OutputOptions>().dir),
       .outputs = outputs.get()});
  // Copies for checkpoints lie on the host: not in the memory that is counted with a device.
  const bool counts_copies = !session.device.context.has_value();
  if (options.get<CheckpointOptions>().interval > 0 && counts_copies)
    planned.checkpoint = checkpointer.planned_bytes();
  if (is_root) log::info(cat("memory of a rank, at most: ", memory_text(planned)));

  if (run_steps(point.steps_done(), trainer, checkpointer, outputs.get()) < trainer.num_steps())
    return kStopped;
  train::MemoryParts measured = trainer.measured_memory();
  measured.drift = meter.reference_bytes(state->model());
  if (counts_copies) measured.checkpoint = checkpointer.snapshot_bytes();
  report_memory(session, *mesh.world, planned, measured, outputs.get());
  mesh.calls->set_place("final save");
  save(options, *state, is_root);
  if (outputs) {
    outputs->end("done", trainer.num_steps());
    log::info(cat("wrote ",
                  (fs::path(options.get<OutputOptions>().dir) /
                   (trains_adapter(options) ? "adapter" : "model"))
                      .string(),
                  ", run.jsonl, run.h5, config.cfg"));
  }
  return kDone;
}

}  // namespace vax::app
