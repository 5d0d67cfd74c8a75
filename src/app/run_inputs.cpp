#include "app/run_inputs.h"

#include "app/model_loading.h"
#include "app/planning.h"
#include "base/error.h"
#include "base/log.h"
#include "data/data_options.h"
#include "train/model_options.h"
#include "train/train_options.h"

namespace vax::app {
namespace {

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
    const model::Spec spec = read_spec(session, options.get<ModelOptions>().path);
    const model::LoraSpec asked = model::make_lora_spec(spec, config.r, 1, adapter.targets);
    if (asked.targets != model::make_lora_spec(spec, config.r, 1, config.targets).targets)
      reject("targets", "other layers", "the layers");
  }
  adapter.r = config.r;
  adapter.alpha = config.alpha;
  adapter.targets = config.targets;
}

// What only the model can tell of the method's options, before anything is loaded.
void check_against_model(const Session& session, const Options& options,
                         const train::MethodMaker& method) {
  const auto& adapter = options.get<AdapterOptions>();
  const model::Spec spec = read_spec(session, options.get<ModelOptions>().path);
  const train::ModelPlan plan(
      request_of(options, method.declaration), spec,
      trains_adapter(options)
          ? model::make_lora_spec(spec, adapter.r, adapter.alpha, adapter.targets)
          : model::LoraSpec{});
  method.make(
      {.model = *plan.model, .probe = plan.probe ? *plan.probe : *plan.model, .device = at::kCPU});
}

void report_data(const data::Dataset& dataset) {
  log::info(cat("data: ", dataset.samples.size(), " rows"));
  if (dataset.num_cut > 0) log::info(cat(dataset.num_cut, " rows are cut to data.max_length"));
  if (dataset.num_without_labels > 0)
    log::warning(cat(dataset.num_without_labels,
                     " rows have no label left: their prompts fill data.max_length"));
}

// The files of the streams that the method declares.
void read_streams(const Options& options, const train::MethodDeclaration& method,
                  const data::Tokenizer& tokenizer, RunInputs& inputs) {
  const auto& data = options.get<DataOptions>();
  for (const train::StreamDeclaration& stream : method.streams) {
    VAX_CHECK(stream.role == "harmful", "no option names the file of the role ", stream.role);
    if (data.harmful_path.empty())
      throw ConfigError(cat("train.method ", options.get<TrainOptions>().method,
                            " needs data.harmful_path: the file of its harmful rows"));
    inputs.streams.push_back(data::build_rows(stream.role, data.harmful_path, data, tokenizer));
  }
}

}  // namespace

bool trains_adapter(const Options& options) {
  return options.get<AdapterOptions>().type == AdapterType::kLora;
}

std::vector<train::DataStream> RunInputs::data_streams(
    const Options& options, const train::MethodDeclaration& method) const {
  std::vector<train::DataStream> all = {
      {.dataset = dataset, .global_batch = options.get<TrainOptions>().global_batch}};
  for (size_t i = 0; i < streams.size(); ++i)
    all.push_back({.dataset = streams[i], .global_batch = method.streams[i].global_batch});
  return all;
}

RunInputs read_run_inputs(const Session& session, const ResumePoint& point,
                          const train::MethodMaker& method, Options& options) {
  RunInputs inputs;
  std::vector<std::string> differences;
  together(session.world, [&] {
    adopt_initial_adapter(session, options);
    check_against_model(session, options, method);
    const data::Tokenizer tokenizer = load_tokenizer(session);
    inputs.dataset = data::build_dataset(options.get<DataOptions>(), tokenizer,
                                         options.subcommand == "finetune");
    read_streams(options, method.declaration, tokenizer, inputs);
    check_lengths(session, inputs.dataset);
    for (const data::Dataset& stream : inputs.streams) {
      check_lengths(session, stream);
      inputs.dataset.sources.insert(inputs.dataset.sources.end(), stream.sources.begin(),
                                    stream.sources.end());
    }
    inputs.drift_batches = drift_batches(session, tokenizer);
    if (point.checkpoint)
      differences =
          check_same_run(session.table(), point.checkpoint->manifest(), options, inputs.dataset);
  });
  if (!session.is_root()) return inputs;
  report_data(inputs.dataset);
  for (const std::string& difference : differences) log::warning(difference);
  return inputs;
}

}  // namespace vax::app
