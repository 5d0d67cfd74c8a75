// vaccine align, vaccine finetune: one training run from options to the output directory.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/model_loading.h"
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

train::ModelRequest request_of(const Options& options) {
  train::ModelRequest request{.model = options.model,
                              .merge = options.adapter.merge,
                              .shard = options.shard,
                              .train_base = !trains_adapter(options),
                              .seed = options.train.seed};
  if (trains_adapter(options)) request.adapter = options.adapter;
  return request;
}

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

}  // namespace

void run_training(const Session& session) {
  Options options = session.options;
  train::Mesh mesh = train::make_mesh(session.world, options.shard.group_size);

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
