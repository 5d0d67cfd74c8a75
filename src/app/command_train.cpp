// vaccine align, vaccine finetune: one training run from options to the output directory.
#include <filesystem>
#include <map>

#include "app/model_loading.h"
#include "app/planning.h"
#include "app/resolved_config.h"
#include "app/resuming.h"
#include "app/run_inputs.h"
#include "app/runtime_options.h"
#include "app/session.h"
#include "base/error.h"
#include "base/json_text.h"
#include "base/log.h"
#include "base/stopwatch.h"
#include "data/data_options.h"
#include "ops/device/runtime.h"
#include "train/checkpoint_options.h"
#include "train/checkpointer.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/saver.h"
#include "train/train_options.h"
#include "train/trainer.h"
#include "train/training_engine.h"
#include "vaccine/drift.h"
#include "vaccine/drift_options.h"

#ifndef VAX_VERSION
#error "VAX_VERSION is set by CMake"
#endif

namespace vax::app {
namespace {

namespace fs = std::filesystem;

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
train::MemoryParts planned_memory(const Session& session, const Options& options,
                                  const train::MethodMaker& method,
                                  const std::vector<train::DataStream>& streams,
                                  train::TrainingEngine& engine, const vaccine::DriftMeter& meter) {
  const int num_ranks = session.world.size();
  const train::Layout layout{.num_ranks = num_ranks,
                             .ranks_per_node = session.environment.local_size(),
                             .on_device = session.device.context.has_value()};
  std::vector<train::Workload> workloads;
  for (const train::DataStream& stream : streams)
    workloads.push_back(
        workload_of(stream.dataset, options.get<TrainOptions>(), stream.global_batch, num_ranks));
  train::MemoryParts parts =
      plan_run(options, engine.state().plan(), method, layout, workloads).memory;
  parts.drift = meter.reference_bytes(engine.state().model());
  engine.mesh()
      .world->all_reduce(&parts.drift, 1, dist::DataType::kInt64, dist::ReduceOp::kMax)
      .wait();
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

// The state of the checkpoint in place of the initial one. COLLECTIVE.
void restore(const Session& session, const ResumePoint& point, train::TrainingEngine& engine,
             const train::Trainer& trainer) {
  if (!point.checkpoint) return;
  const Stopwatch watch;
  if (point.steps_done() > trainer.num_steps())
    throw AgreedError(cat("checkpoint.resume: the checkpoint stands at step ", point.steps_done(),
                          ", this run has ", trainer.num_steps(), " steps"),
                      kBadInput);
  engine.state().begin_update();
  together(session.world, [&] { train::read_state(*point.checkpoint, engine); });
  engine.state().publish();
  if (session.is_root())
    log::info(cat("going on after step ", point.steps_done(), " of ",
                  point.checkpoint->directory().string(), ", read in ", watch.elapsed_s(), " s"));
}

// On rank 0; null on the others. COLLECTIVE.
std::unique_ptr<train::RunOutputs> open_outputs(const Session& session, const Options& options,
                                                const ResumePoint& point,
                                                const io::Figures& figures,
                                                const io::StartRecord& start) {
  std::unique_ptr<train::RunOutputs> outputs;
  together(session.world, [&] {
    if (!session.is_root()) return;
    clear_way(point, options);
    train::RunDescription run{.directory = options.get<OutputOptions>().dir,
                              .config_text = to_ini(session.table(), options),
                              .start = start,
                              .figures = figures,
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

// Are passes captured? They are where they gather nothing and are so small that launching their
// operators costs about as much as the operators. THROWS ConfigError when that is asked for and
// cannot be.
bool use_graphs(const Options& options, const train::Mesh& mesh, const train::ModelState& state) {
  const Graphs graphs = options.get<RuntimeOptions>().graphs;
  if (!ops::device::is_selected() || graphs == Graphs::kOff) return false;
  const bool gathers = !train::passes_gather_nothing(mesh, state);
  if (graphs == Graphs::kOn) {
    if (gathers)
      throw ConfigError(
          "runtime.graphs: expected auto or off (the passes gather weights: several ranks, or "
          "parameters that are computed with in another type than they are stored in), found on");
    return true;
  }
  constexpr int64_t kMostTokens = 4096;
  const auto& train = options.get<TrainOptions>();
  return !gathers &&
         train.micro_batch.value_or(train.global_batch) * options.get<DataOptions>().max_length <=
             kMostTokens;
}

// The engine of a run, its weights loaded. COLLECTIVE.
std::unique_ptr<train::TrainingEngine> make_engine(const Session& session, const Options& options,
                                                   const train::MethodMaker& method,
                                                   train::Mesh mesh) {
  auto state = load_model(session, mesh, request_of(options, method.declaration));
  const train::EngineSettings settings{
      .train = options.get<TrainOptions>(),
      .dropout = trains_adapter(options) ? options.get<AdapterOptions>().dropout : 0,
      .use_graphs = use_graphs(options, mesh, *state)};
  auto engine =
      std::make_unique<train::TrainingEngine>(std::move(mesh), std::move(state), settings);
  engine->add_method(method);
  return engine;
}

}  // namespace

ExitCode run_training(const Session& session) {
  Options options = session.options;
  const auto& checkpoint = options.get<CheckpointOptions>();
  const train::StopSignals signals(checkpoint.signals, checkpoint.stop_limit_s, kCommFailed);
  const bool is_root = session.is_root();
  const ResumePoint point = choose_resume_point(session);
  const train::MethodMaker method =
      train::maker_of(session.catalogue.methods.find(options.get<TrainOptions>().method), options);
  train::Mesh mesh = make_mesh(session, !trains_adapter(options));
  const RunInputs inputs = read_run_inputs(session, point, method, options);
  const auto engine = make_engine(session, options, method, std::move(mesh));
  train::ModelState& state = engine->state();

  vaccine::DriftMeter meter(inputs.drift_batches, *engine->mesh().world);
  const std::vector<train::DataStream> streams = inputs.data_streams(options, method.declaration);
  train::MemoryParts planned = planned_memory(session, options, method, streams, *engine, meter);
  train::Trainer trainer({.engine = *engine,
                          .options = options.get<TrainOptions>(),
                          .shuffle = options.get<DataOptions>().shuffle,
                          .max_length = options.get<DataOptions>().max_length,
                          .streams = streams,
                          .measure_drift = drift_observer(options, meter, state)});
  together(session.world, [&] { trainer.check_batches(); });
  trainer.keep_reference();
  restore(session, point, *engine, trainer);

  const io::StartRecord start = start_record(session, options, inputs.dataset, state);
  const auto outputs = open_outputs(session, options, point, method.declaration.figures, start);
  session.watchdog.set_record_directory(options.get<OutputOptions>().dir);
  train::Checkpointer checkpointer(
      {.options = checkpoint,
       .world = session.world,
       .engine = *engine,
       .adapter_only = trains_adapter(options) && checkpoint.adapter_only.value_or(true),
       .root = checkpoint_root(options),
       .description = describe_run(session, options, start, trainer),
       .requests = train::RequestFiles(options.get<OutputOptions>().dir),
       .outputs = outputs.get()});
  // Copies for checkpoints lie on the host: not in the memory that is counted with a device.
  const bool counts_copies = !session.device.context.has_value();
  if (checkpoint.interval > 0 && counts_copies) planned.checkpoint = checkpointer.planned_bytes();
  if (is_root) log::info(cat("memory of a rank, at most: ", memory_text(planned)));

  if (run_steps(point.steps_done(), trainer, checkpointer, outputs.get()) < trainer.num_steps())
    return kStopped;
  train::MemoryParts measured = engine->measured_memory();
  measured.drift = meter.reference_bytes(state.model());
  if (counts_copies) measured.checkpoint = checkpointer.snapshot_bytes();
  report_memory(session, *engine->mesh().world, planned, measured, outputs.get());
  engine->mesh().calls->set_place("final save");
  save(options, state, is_root);
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
