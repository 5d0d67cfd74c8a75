// vaccine align, vaccine finetune: one training run from options to the output directory.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/model_loading.h"
#include "app/planning.h"
#include "app/resolved_config.h"
#include "app/session.h"
#include "base/error.h"
#include "base/log.h"
#include "train/saver.h"
#include "train/trainer.h"
#include "vaccine/drift.h"
#include "vaccine/vaccine_method.h"

#ifndef VAX_VERSION
#error "VAX_VERSION is set by CMake"
#endif

namespace vax::app {
namespace {

namespace fs = std::filesystem;

bool trains_adapter(const Options& options) { return options.adapter.type == "lora"; }

// An adapter that is gone on from brings its shape; an option that says otherwise is a mistake. The
// options take over its values, so that the stored configuration says what was trained.
void adopt_initial_adapter(const Session& session, Options& options) {
  AdapterOptions& adapter = options.adapter;
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
    const model::LoraSpec asked = model::make_lora_spec(config.r, 1, adapter.targets);
    if (asked.targets != model::make_lora_spec(config.r, 1, config.targets).targets)
      reject("targets", "other layers", "the layers");
  }
  adapter.r = config.r;
  adapter.alpha = config.alpha;
  adapter.targets = config.targets;
}

// What only the model can tell, before it is loaded.
void check_against_model(const Options& options) {
  if (options.train.method != "vaccine") return;
  const model::LlamaConfig config =
      model::read_llama_config(fs::path(options.model.path) / "config.json");
  vaccine::Perturbation(options.vaccine, static_cast<int>(config.num_layers));
}

io::StartRecord start_record(const Options& options, int world_size, const data::Dataset& dataset,
                             const train::ModelState& state) {
  nlohmann::json config = nlohmann::json::object();
  for (const OptionJson& option : to_json_values(options))
    config[option.section][option.key] = nlohmann::json::parse(option.json);
  io::StartRecord record{.version = VAX_VERSION,
                         .world_size = world_size,
                         .config_json = config.dump(),
                         .model_path = options.model.path,
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
  if (options.train.method == "sft") return std::make_unique<train::SftMethod>(context);
  VAX_CHECK(options.train.method == "vaccine", options.train.method);
  return std::make_unique<vaccine::VaccineMethod>(context, options.vaccine);
}

// Keeps the reference before the first step and measures when drift.interval or the end says so.
auto drift_observer(const Options& options, vaccine::DriftMeter& meter, train::ModelState& state) {
  return [&](int64_t step, bool is_last) -> std::optional<io::DriftRecord> {
    if (step == 0) {
      meter.set_reference(state.llama(), state.weights());
      return std::nullopt;
    }
    const int64_t interval = options.drift.interval;
    if (!is_last && (interval == 0 || step % interval != 0)) return std::nullopt;
    return meter.measure(state.llama(), state.weights(), step);
  };
}

void save(const Options& options, train::ModelState& state, bool is_writer) {
  const fs::path output = options.output.dir;
  if (trains_adapter(options))
    train::save_adapter(state, output / "adapter", options.model.path, options.adapter.dropout,
                        is_writer);
  else
    train::save_model(state, output / "model", options.model.path, is_writer);
}

// Of the fullest rank. COLLECTIVE.
train::MemoryParts planned_memory(const Session& session, dist::Collectives& world,
                                  const Options& options, const data::Dataset& dataset,
                                  const train::ModelState& state,
                                  const vaccine::DriftMeter& meter) {
  const int num_ranks = session.world.size();
  const train::Layout layout{.num_ranks = num_ranks,
                             .ranks_per_node = session.environment.local_size()};
  train::MemoryParts parts =
      plan_run(options, state.plan(), layout, workload_of(dataset, options, num_ranks)).memory;
  parts.drift = meter.reference_bytes(state.llama());
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

}  // namespace

void run_training(const Session& session) {
  Options options = session.options;
  train::Mesh mesh = make_mesh(session, !trains_adapter(options));

  std::optional<data::Tokenizer> tokenizer;
  data::Dataset dataset;
  std::vector<PackedBatch> batches;
  together(session.world, [&] {
    adopt_initial_adapter(session, options);
    check_against_model(options);
    tokenizer.emplace(load_tokenizer(options));
    dataset = data::build_dataset(options.data, *tokenizer, options.subcommand == "finetune");
    check_lengths(dataset, options);
    batches = drift_batches(options, *tokenizer);
  });
  if (session.is_root()) report_data(dataset);
  const auto state = load_model(session, mesh, request_of(options));

  std::unique_ptr<train::RunOutputs> outputs;
  together(session.world, [&] {
    if (session.is_root())
      outputs = std::make_unique<train::RunOutputs>(
          options.output.dir, to_ini(options),
          start_record(options, session.world.size(), dataset, *state),
          options.output.log_interval);
  });
  vaccine::DriftMeter meter(std::move(batches), *mesh.world);
  const train::MemoryParts planned =
      planned_memory(session, *mesh.world, options, dataset, *state, meter);
  if (session.is_root()) log::info(cat("memory of a rank, at most: ", memory_text(planned)));
  train::Trainer trainer(
      {.options = options,
       .mesh = mesh,
       .state = *state,
       .dataset = dataset,
       .dropout = trains_adapter(options) ? options.adapter.dropout : 0,
       .make_method =
           [&](const train::StepContext& context) { return make_method(options, context); },
       .measure_drift = drift_observer(options, meter, *state),
       .outputs = outputs.get()});
  trainer.run();
  train::MemoryParts measured = trainer.measured_memory();
  measured.drift = meter.reference_bytes(state->llama());
  report_memory(session, *mesh.world, planned, measured, outputs.get());
  save(options, *state, session.is_root());
  if (outputs) {
    outputs->end("done", trainer.num_steps());
    log::info(cat(
        "wrote ",
        (fs::path(options.output.dir) / (trains_adapter(options) ? "adapter" : "model")).string(),
        ", run.jsonl, run.h5, config.cfg"));
  }
}

}  // namespace vax::app
