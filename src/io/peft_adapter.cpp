#include "io/peft_adapter.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string_view>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/json.h"
#include "base/json_text.h"
#include "io/posix_file.h"
#include "io/safetensors_writer.h"

namespace vax::io {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightFile = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kSuffixA = ".lora_A.weight";
constexpr std::string_view kSuffixB = ".lora_B.weight";

// Keys that are read, and keys that change nothing about a plain LoRA adapter whatever they hold.
constexpr std::array<std::string_view, 19> kHarmlessKeys = {
    "peft_type",         "r",
    "lora_alpha",        "lora_dropout",
    "target_modules",    "bias",
    "task_type",         "auto_mapping",
    "peft_version",      "revision",
    "inference_mode",    "base_model_name_or_path",
    "megatron_core",     "eva_config",
    "init_lora_weights", "qalora_group_size",
    "loftq_config",      "ensure_weight_tying",
    "runtime_config"};

// Initialisations that leave the base weights as they are. The others (pissa, olora, corda, loftq,
// lora_ga) subtract something from the base when the adapter is loaded.
constexpr std::array<std::string_view, 3> kHarmlessInits = {"gaussian", "eva", "orthogonal"};

bool is_off(const Json& value) {
  constexpr std::array<std::string_view, 5> kOff = {"null", "false", "\"\"", "[]", "{}"};
  return std::ranges::find(kOff, value.shown()) != kOff.end();
}

// Every key that is not known to be harmless must be switched off; so a feature of a later peft
// version is refused too, not ignored.
void refuse_other_features(const Json& config) {
  for (const auto& [key, value] : config.members()) {
    if (std::ranges::find(kHarmlessKeys, key) == kHarmlessKeys.end() && !is_off(value))
      throw DataError(cat(config.where(), ": ", key, " = ", value.shown(),
                          " is not supported; only plain LoRA is. Merge the adapter into its base "
                          "with peft's merge_and_unload() and use the merged model"));
  }
  const Json bias = config["bias"];
  if (!bias.is_null() && !bias.is("none")) bias.fail("\"none\" (no trained biases)");
  const Json init = config["init_lora_weights"];
  if (init.is_null() || init.is_boolean()) return;
  if (std::ranges::none_of(kHarmlessInits, [&](std::string_view name) { return init.is(name); }))
    init.fail("an initialisation that leaves the base unchanged");
}

std::vector<std::string> read_targets(const Json& found) {
  constexpr const char* kExpected =
      "a non-empty list of module names without dots (no regular expression)";
  if (!found.is_array() || found.size() == 0) found.fail(kExpected);
  std::vector<std::string> targets;
  for (const Json& item : found.items()) {
    const std::string name = item.is_text() ? item.text() : "";
    if (name.empty() || name.find('.') != name.npos) found.fail(kExpected);
    targets.push_back(name);
  }
  return targets;
}

// "base_model.model.X" + suffix -> "X"; empty when the name has another form.
std::string module_of(std::string_view name, std::string_view suffix) {
  if (!name.starts_with(kPrefix) || !name.ends_with(suffix) ||
      name.size() <= kPrefix.size() + suffix.size())
    return "";
  return std::string(name.substr(kPrefix.size(), name.size() - kPrefix.size() - suffix.size()));
}

void check_factor(const TensorInfo& info, size_t rank_axis, int64_t r) {
  if (info.shape.size() != 2 || info.shape[rank_axis] != r || !is_convertible(info.dtype))
    throw DataError(cat(info.file, ": tensor ", json_quoted(info.name), ": expected a floating ",
                        rank_axis == 0 ? cat("[", r, ", in]") : cat("[out, ", r, "]"), ", found ",
                        dtype_name(info.dtype), " ", shape_text(info.shape)));
}

void check_target(const TensorInfo& info, const std::string& module,
                  const std::vector<std::string>& targets) {
  const std::string leaf = module.substr(module.find_last_of('.') + 1);
  if (std::ranges::find(targets, leaf) == targets.end())
    throw DataError(cat(info.file, ": tensor ", json_quoted(info.name), ": ", leaf,
                        " is not among target_modules of ", kConfigFile));
}

std::vector<AdapterModule> pair_factors(const SafetensorsFile& file, const AdapterConfig& config) {
  std::map<std::string, AdapterModule> modules;
  for (const TensorInfo& info : file.tensors()) {
    const std::string of_a = module_of(info.name, kSuffixA);
    const std::string of_b = module_of(info.name, kSuffixB);
    if (of_a.empty() && of_b.empty())
      throw DataError(cat(info.file, ": tensor ", json_quoted(info.name),
                          " is not a LoRA factor: expected ", kPrefix, "MODULE", kSuffixA, " or ",
                          kSuffixB));
    const bool is_a = !of_a.empty();
    const std::string& module = is_a ? of_a : of_b;
    check_factor(info, is_a ? 0 : 1, config.r);
    check_target(info, module, config.targets);
    modules[module].name = module;
    (is_a ? modules[module].a : modules[module].b) = &info;
  }
  std::vector<AdapterModule> result;
  for (const auto& [name, module] : modules) {
    if (!module.a || !module.b)
      throw DataError(
          cat(file.path(), ": module ", name, " lacks its lora_", module.a ? "B" : "A", " factor"));
    result.push_back(module);
  }
  if (result.empty()) throw DataError(cat(file.path(), ": holds no LoRA factors"));
  return result;
}

// peft declares lora_alpha an integer; a fraction, which its arithmetic accepts, stays one.
JsonText alpha_value(double alpha) {
  if (alpha == std::floor(alpha) && std::fabs(alpha) < 1e15) return static_cast<int64_t>(alpha);
  return alpha;
}

// The keys that every peft version since 0.4 knows; later ones default the rest.
std::string config_text(const AdapterConfig& config) {
  return JsonText({{"peft_type", "LORA"},
                   {"task_type", "CAUSAL_LM"},
                   {"base_model_name_or_path", config.base_model},
                   {"inference_mode", true},
                   {"r", config.r},
                   {"lora_alpha", alpha_value(config.alpha)},
                   {"lora_dropout", config.dropout},
                   {"target_modules", config.targets},
                   {"bias", "none"},
                   {"fan_in_fan_out", false},
                   {"init_lora_weights", true},
                   {"layers_pattern", nullptr},
                   {"layers_to_transform", nullptr},
                   {"modules_to_save", nullptr},
                   {"revision", nullptr},
                   {"auto_mapping", nullptr}})
      .indented();
}

void check_to_write(const AdapterTensor& tensor, int64_t r) {
  const bool is_a = !module_of(tensor.name, kSuffixA).empty();
  const bool is_b = !module_of(tensor.name, kSuffixB).empty();
  VAX_CHECK(is_a || is_b, "'", tensor.name, "' is no name of a LoRA factor");
  VAX_CHECK(tensor.shape.size() == 2 && tensor.shape[is_a ? 0 : 1] == r, tensor.name, ": shape ",
            shape_text(tensor.shape), ", r ", r);
  VAX_CHECK(static_cast<int64_t>(tensor.data.size()) == tensor.shape[0] * tensor.shape[1],
            tensor.name, ": ", tensor.data.size(), " elements for ", shape_text(tensor.shape));
}

}  // namespace

std::string lora_a_name(const std::string& module) { return cat(kPrefix, module, kSuffixA); }
std::string lora_b_name(const std::string& module) { return cat(kPrefix, module, kSuffixB); }

AdapterConfig read_adapter_config(const fs::path& directory) {
  const fs::path path = directory / kConfigFile;
  if (!fs::exists(path))
    throw DataError(cat(path.string(), ": missing; expected a PEFT adapter directory"));
  const Json config = Json::read(path);
  if (!config.is_object()) config.fail("a JSON object");
  if (!config["peft_type"].is("LORA")) config["peft_type"].fail("\"LORA\"");
  refuse_other_features(config);

  AdapterConfig result;
  result.r = config["r"].integer_or(0);
  result.alpha = config["lora_alpha"].number_or(0);
  result.dropout = config["lora_dropout"].number_or(0);
  result.base_model = config["base_model_name_or_path"].text_or("");
  result.targets = read_targets(config["target_modules"]);
  if (result.r <= 0) config["r"].fail("a positive integer");
  if (!(result.alpha > 0)) config["lora_alpha"].fail("a positive number");
  if (!(result.dropout >= 0 && result.dropout < 1))
    config["lora_dropout"].fail("a number in [0, 1)");
  return result;
}

PeftAdapter PeftAdapter::open(const fs::path& directory) {
  AdapterConfig config = read_adapter_config(directory);
  if (!fs::exists(directory / kWeightFile)) {
    const bool pickle = fs::exists(directory / "adapter_model.bin");
    throw DataError(cat((directory / kWeightFile).string(), ": missing",
                        pickle ? "; adapter_model.bin is a pickle file, which is not read because "
                                 "it can run code: load it with peft and save_pretrained() it again"
                               : ""));
  }
  PeftAdapter adapter(std::move(config), SafetensorsFile::open(directory / kWeightFile));
  adapter.modules_ = pair_factors(adapter.file_, adapter.config_);
  return adapter;
}

void write_adapter(const fs::path& directory, const AdapterConfig& config,
                   std::span<const AdapterTensor> tensors) {
  std::vector<TensorToWrite> to_write;
  for (const AdapterTensor& tensor : tensors) {
    check_to_write(tensor, config.r);
    to_write.push_back(
        tensor_in_memory(tensor.name, DType::kF32, tensor.shape, tensor.data.data()));
  }
  const auto is_own = [](const std::string& name) {
    return name == kWeightFile || name == kConfigFile;
  };
  publish_directory(directory, is_own, [&](const fs::path& temporary) {
    write_safetensors_unpublished(temporary / kWeightFile, directory / kWeightFile, to_write);
    PosixFile file = PosixFile::create(temporary / kConfigFile, directory / kConfigFile);
    file.write(config_text(config));
    file.close();
  });
}

}  // namespace vax::io
