// Paths and ranks; see the header. Access is asked of the system, because permission bits alone do
// not tell for root, access lists and read-only file systems.
#include "app/validate.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <span>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "data/data_options.h"
#include "eval/eval_options.h"
#include "model/init_options.h"
#include "train/checkpoint_options.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/shard_options.h"
#include "vaccine/drift_options.h"

namespace vax::app {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(std::string_view option, const std::string& path,
                         std::string_view expected, std::string_view actual) {
  throw ConfigError(cat(option, " = ", path, ": expected ", expected, ", found ", actual));
}

// With the effective user, as open() will ask.
bool may_access(const fs::path& path, int mode) {
  return ::faccessat(AT_FDCWD, path.c_str(), mode, AT_EACCESS) == 0;
}

// What stands at a path, in words; "" when it is of the wanted kind and readable.
std::string problem_of(const fs::path& path, fs::file_type wanted) {
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  if (type == fs::file_type::not_found) return "nothing there";
  if (type == fs::file_type::none || type == fs::file_type::unknown) return error.message();
  if (type != wanted) return type == fs::file_type::directory ? "a directory" : "not a directory";
  const int mode = wanted == fs::file_type::directory ? R_OK | X_OK : R_OK;
  return may_access(path, mode) ? "" : "no permission to read it";
}

void check_file(std::string_view option, const std::string& path) {
  if (path.empty()) return;
  const std::string problem = problem_of(path, fs::file_type::regular);
  if (!problem.empty()) refuse(option, path, "a readable file", problem);
}

// A directory that holds at least one file of `names`; the message asks for the first.
void check_directory(std::string_view option, const std::string& path,
                     std::span<const std::string_view> names) {
  if (path.empty()) return;
  const std::string problem = problem_of(path, fs::file_type::directory);
  if (!problem.empty()) refuse(option, path, "a readable directory", problem);
  for (const std::string_view name : names) {
    if (problem_of(fs::path(path) / name, fs::file_type::regular).empty()) return;
  }
  refuse(option, path, cat("a directory with ", names.front()), "one without");
}

constexpr std::array<std::string_view, 1> kConfig = {"config.json"};
// The tokenizer's loader says which of these it can read.
constexpr std::array<std::string_view, 3> kTokenizers = {"tokenizer.model", "tokenizer.json",
                                                         "vocab.json"};
constexpr std::array<std::string_view, 1> kAdapter = {"adapter_config.json"};

void check_model(const Options& options) {
  if (options.subcommand != "tokenize")
    check_directory("model.path", options.get<ModelOptions>().path, kConfig);
  check_directory("model.path", options.get<ModelOptions>().path, kTokenizers);
  for (const std::string& path : options.get<AdapterOptions>().merge) {
    check_directory("adapter.merge", path, kAdapter);
  }
  check_directory("adapter.init", options.get<AdapterOptions>().init, kAdapter);
}

void check_drift_reference(const DriftOptions& drift) {
  check_directory("drift.reference_path", drift.reference_path, kConfig);
  for (const std::string& path : drift.reference_merge) {
    check_directory("drift.reference_merge", path, kAdapter);
  }
}

// A tokenizer.model or a directory with a tokenizer of any kind.
void check_tokenizer(const std::string& path) {
  if (std::error_code error; fs::is_directory(path, error)) {
    check_directory("init.tokenizer_path", path, kTokenizers);
  } else {
    check_file("init.tokenizer_path", path);
  }
}

void check_template(const DataOptions& data) {
  const std::vector<std::string> names = data::template_names();
  if (std::ranges::find(names, data.template_name) != names.end()) return;
  const std::string problem = problem_of(data.template_name, fs::file_type::regular);
  if (problem.empty()) return;
  refuse("data.template", data.template_name, cat(join(names, ", "), " or a readable file"),
         problem);
}

// The directory itself or, where it is still to be made, its nearest ancestor that exists.
void check_output(const std::string& dir) {
  if (dir.empty()) return;
  constexpr std::string_view kExpected = "a directory that can be made or written";
  fs::path existing = fs::absolute(dir).lexically_normal();
  std::error_code error;
  fs::file_type type = fs::status(existing, error).type();
  while (type == fs::file_type::not_found && existing.has_relative_path()) {
    existing = existing.parent_path();
    type = fs::status(existing, error).type();
  }
  if (type == fs::file_type::none) {
    refuse("output.dir", dir, kExpected, cat(error.message(), " at ", existing.string()));
  }
  if (type != fs::file_type::directory) {
    refuse("output.dir", dir, kExpected, existing.string() + ", which is not a directory");
  }
  if (!may_access(existing, W_OK | X_OK)) {
    refuse("output.dir", dir, kExpected, "no permission to write in " + existing.string());
  }
}

struct Input {
  std::string_view option;
  const std::string& path;
};

std::vector<Input> inputs_of(const Options& options) {
  std::vector<Input> inputs = {{"model.path", options.get<ModelOptions>().path},
                               {"adapter.init", options.get<AdapterOptions>().init},
                               {"data.path", options.get<DataOptions>().path},
                               {"data.harmful_path", options.get<DataOptions>().harmful_path},
                               {"data.template", options.get<DataOptions>().template_name},
                               {"drift.path", options.get<DriftOptions>().path},
                               {"drift.reference_path", options.get<DriftOptions>().reference_path},
                               {"eval.harmful_path", options.get<EvalOptions>().harmful_path},
                               {"eval.task_path", options.get<EvalOptions>().task_path},
                               {"eval.alignment_path", options.get<EvalOptions>().alignment_path},
                               {"eval.benign_path", options.get<EvalOptions>().benign_path},
                               {"eval.judge_path", options.get<EvalOptions>().judge_path},
                               {"checkpoint.path", options.get<CheckpointOptions>().path},
                               {"init.tokenizer_path", options.get<InitOptions>().tokenizer_path}};
  for (const std::string& path : options.get<AdapterOptions>().merge)
    inputs.push_back({"adapter.merge", path});
  for (const std::string& path : options.get<DriftOptions>().reference_merge)
    inputs.push_back({"drift.reference_merge", path});
  return inputs;
}

// What the subcommand replaces in output.dir: files, and directories with what is in them.
std::vector<fs::path> replaced_by(const Options& options) {
  const fs::path dir = options.get<OutputOptions>().dir;
  const std::string& subcommand = options.subcommand;
  if (subcommand == "init" || subcommand == "export") return {dir};
  if (subcommand == "align" || subcommand == "finetune")
    return {dir / (options.get<AdapterOptions>().type == AdapterType::kLora ? "adapter" : "model"),
            dir / "run.jsonl", dir / "run.h5", dir / "config.cfg"};
  if (subcommand == "eval") return {dir / "eval.json", dir / "answers.json"};
  if (subcommand == "generate") return {dir / "answers.json"};
  if (subcommand == "drift") return {dir / "drift.jsonl", dir / "drift.h5"};
  return {};
}

// Whether `path` is `place` or lies in it, whatever links lead there. Both exist, or it does not.
bool lies_in(const fs::path& path, const fs::path& place) {
  std::error_code error;
  std::error_code ignored;  // of places that are not there
  fs::path at = fs::canonical(path, error);
  if (error) return false;
  for (; at.has_relative_path(); at = at.parent_path())
    if (fs::equivalent(at, place, ignored)) return true;
  return false;
}

// The same of a directory whose files are links, as in a cache of models.
bool reads_from(const std::string& input, const fs::path& place) {
  if (lies_in(input, place)) return true;
  std::error_code error;
  for (fs::directory_iterator entry(input, error), end; !error && entry != end;
       entry.increment(error))
    if (entry->is_symlink() && lies_in(entry->path(), place)) return true;
  return false;
}

void check_inputs_stay(const Options& options) {
  if (options.get<OutputOptions>().dir.empty()) return;
  for (const fs::path& output : replaced_by(options))
    for (const Input& input : inputs_of(options))
      if (!input.path.empty() && reads_from(input.path, output))
        refuse(input.option, input.path, "an input that stays",
               cat("one in ", output.string(),
                   ", which this run replaces: choose another output.dir"));
}

// init and export replace the directory as a whole: it must be new, empty or an older model, and
// not the model that is being read.
void check_replaceable(const Options& options) {
  constexpr std::string_view kExpected =
      "a new or empty directory, or a model's (with config.json)";
  const fs::path dir = options.get<OutputOptions>().dir;
  std::error_code error;
  if (!fs::exists(dir, error) || fs::is_empty(dir, error)) return;
  if (!fs::exists(dir / "config.json", error))
    refuse("output.dir", dir.string(), kExpected, "other files, which would be lost");
  if (!options.get<ModelOptions>().path.empty() &&
      fs::equivalent(dir, options.get<ModelOptions>().path, error))
    refuse("output.dir", dir.string(), kExpected, "model.path itself");
}

}  // namespace

void check_paths(const Options& options) {
  check_output(options.get<OutputOptions>().dir);
  if (options.subcommand == "init" || options.subcommand == "export") check_replaceable(options);
  check_inputs_stay(options);
  if (options.subcommand == "rebuild") return;
  if (options.subcommand == "init") {
    check_tokenizer(options.get<InitOptions>().tokenizer_path);
    return;
  }
  if (options.subcommand == "plan") {
    check_directory("model.path", options.get<ModelOptions>().path, kConfig);
    return;
  }
  check_model(options);
  if (options.subcommand == "drift") check_drift_reference(options.get<DriftOptions>());
  const DataOptions& data = options.get<DataOptions>();
  const EvalOptions& eval = options.get<EvalOptions>();
  check_template(data);
  check_file("data.path", data.path);
  check_file("data.harmful_path", data.harmful_path);
  check_file("drift.path", options.get<DriftOptions>().path);
  check_file("eval.harmful_path", eval.harmful_path);
  check_file("eval.task_path", eval.task_path);
  check_file("eval.alignment_path", eval.alignment_path);
  check_file("eval.benign_path", eval.benign_path);
  check_file("eval.judge_path", eval.judge_path);
}

void check_world_size(const Options& options, int world_size) {
  const std::optional<int64_t> group_size = options.get<ShardOptions>().group_size;
  if (!group_size || options.subcommand == "plan") return;
  if (*group_size <= world_size && world_size % *group_size == 0) return;
  throw ConfigError(cat("shard.group_size: expected a divisor of the number of ranks (", world_size,
                        "), found ", *group_size));
}

}  // namespace vax::app
