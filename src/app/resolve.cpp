// Dependent defaults and checks over several options; see the header.
#include "app/resolve.h"

#include "app/option_table.h"
#include "app/subcommands.h"
#include "base/error.h"
#include "data/data_options.h"
#include "eval/eval_options.h"
#include "model/init_options.h"
#include "train/checkpoint_options.h"
#include "train/model_options.h"
#include "train/train_options.h"
#include "vaccine/drift_options.h"

namespace vax::app {
namespace {

// "train.lr = 0.1 (FILE:LINE)".
std::string shown(const CommandLine& command_line, std::string_view name) {
  return cat(name, " = ", command_line.table->at(name).text(command_line.options), " (",
             command_line.where(name), ")");
}

void require(const CommandLine& command_line, std::string_view name) {
  const OptionRow& row = command_line.table->at(name);
  const Options& options = command_line.options;
  if ((row.used_by & bit_of(options.subcommand)) == 0 || !row.text(options).empty()) return;
  throw ConfigError(cat("`vaccine ", options.subcommand, "` needs ", name, ": ", row.meaning));
}

void choose_length(CommandLine& command_line) {
  const auto epochs = command_line.origins.find("train.epochs");
  const auto max_steps = command_line.origins.find("train.max_steps");
  if (epochs == command_line.origins.end() || max_steps == command_line.origins.end()) return;
  const int by = epochs->second.precedence - max_steps->second.precedence;
  if (by == 0) {
    throw ConfigError(cat("expected one of train.epochs and train.max_steps, found both: ",
                          shown(command_line, "train.epochs"), " and ",
                          shown(command_line, "train.max_steps")));
  }
  TrainOptions& train = command_line.options.get<TrainOptions>();
  if (by > 0) {
    train.max_steps.reset();
    command_line.origins.erase(max_steps);
  } else {
    train.epochs.reset();
    command_line.origins.erase(epochs);
  }
}

void check_training(const CommandLine& command_line) {
  const Options& options = command_line.options;
  const AdapterOptions& adapter = options.get<AdapterOptions>();
  const DataOptions& data = options.get<DataOptions>();
  if (data.harmful_ratio > 0 && data.harmful_path.empty()) {
    throw ConfigError(cat(shown(command_line, "data.harmful_ratio"),
                          " needs data.harmful_path: the file that these rows come from"));
  }
  if (adapter.type == AdapterType::kNone &&
      options.get<CheckpointOptions>().adapter_only.value_or(false)) {
    throw ConfigError(cat(shown(command_line, "checkpoint.adapter_only"),
                          " needs adapter.type lora, found none (",
                          command_line.where("adapter.type"), "): every weight is trained"));
  }
  if (adapter.type == AdapterType::kNone && !adapter.init.empty()) {
    throw ConfigError(cat(shown(command_line, "adapter.init"),
                          " needs adapter.type lora, found none (",
                          command_line.where("adapter.type"),
                          "); to train every weight from an adapter on, give it to adapter.merge"));
  }
}

void check_eval(const EvalOptions& eval) {
  if (!eval.harmful_path.empty() || !eval.task_path.empty() || !eval.alignment_path.empty() ||
      !eval.benign_path.empty()) {
    return;
  }
  throw ConfigError(
      "`vaccine eval` needs at least one of eval.harmful_path, eval.task_path, "
      "eval.alignment_path, eval.benign_path: each asks for its figures");
}

// The shape that `vaccine init` writes; the same rules hold for every config.json read.
void check_init(const CommandLine& command_line) {
  require(command_line, "init.tokenizer_path");
  const InitOptions& init = command_line.options.get<InitOptions>();
  const int64_t heads = init.num_attention_heads;
  if (!init.head_dim && init.hidden_size % heads != 0) {
    throw ConfigError(cat("expected init.num_attention_heads to divide init.hidden_size, found ",
                          init.hidden_size, " / ", heads, "; or give init.head_dim"));
  }
  if (!init.head_dim && init.hidden_size / heads % 2 != 0) {
    throw ConfigError(cat("expected an even width of a head (rotary embedding), found ",
                          init.hidden_size, " / ", heads, " = ", init.hidden_size / heads));
  }
  if (init.num_key_value_heads && heads % *init.num_key_value_heads != 0) {
    throw ConfigError(
        cat("expected init.num_key_value_heads to divide init.num_attention_heads, found ", heads,
            " / ", *init.num_key_value_heads));
  }
}

}  // namespace

void fill_defaults(const OptionTable& table, Options& options) {
  const SubcommandSet bit = bit_of(options.subcommand);
  table.fill_defaults(options, bit);
  TrainOptions& train = options.get<TrainOptions>();
  if ((bit & kTraining) != 0 && !train.epochs && !train.max_steps) train.epochs = 50;
  DriftOptions& drift = options.get<DriftOptions>();
  if (drift.path.empty()) drift.path = options.get<DataOptions>().path;
  if (drift.reference_path.empty()) drift.reference_path = options.get<ModelOptions>().path;
}

void resolve(CommandLine& command_line) {
  VAX_CHECK(command_line.request == CommandLine::Request::kRun);
  Options& options = command_line.options;
  const SubcommandSet bit = bit_of(options.subcommand);
  if ((bit & kTraining) != 0) choose_length(command_line);
  fill_defaults(*command_line.table, options);

  require(command_line, "model.path");
  if ((bit & (kTraining | kGenerate)) != 0) require(command_line, "data.path");
  if (bit == kDrift) require(command_line, "drift.path");
  if (bit != kDrift) require(command_line, "output.dir");
  if ((bit & kTraining) != 0) check_training(command_line);
  if (bit == kEval) check_eval(options.get<EvalOptions>());
  if (bit == kExport && !options.get<CheckpointOptions>().path.empty() &&
      !options.get<AdapterOptions>().merge.empty()) {
    throw ConfigError(cat(shown(command_line, "adapter.merge"), " and ",
                          shown(command_line, "checkpoint.path"),
                          ": expected one of them; export the checkpoint's adapter first, then "
                          "merge it"));
  }
  if (bit == kInit) check_init(command_line);
}

}  // namespace vax::app
