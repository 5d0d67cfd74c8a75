#include "app/checkpoint_export.h"

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "app/setting_sources.h"
#include "base/error.h"
#include "io/huggingface_writer.h"
#include "io/peft_adapter.h"
#include "model/lora.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/saver.h"

namespace vax::app {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPlane = "trainable";

// The options that the checkpoint's run was started with.
Options options_of(const OptionTable& table, const io::CheckpointReader& checkpoint) {
  const std::string place = cat(checkpoint.directory().string(), ": manifest.json: config");
  Options options;
  std::istringstream text(checkpoint.manifest().config);
  for (const Setting& setting : read_ini(text, place, {})) {
    if (was_option_once(setting.name)) continue;
    const OptionRow* const row = table.find(setting.name);
    const std::string& value = setting.values.at(0);
    if (row == nullptr || !row->assign(options, value))
      throw DataError(cat(place, ": ", setting.name, ": expected ",
                          row ? row->expected() : "a known option", ", found '", value, "'"));
  }
  return options;
}

template <typename Function>
void for_each_parameter(const io::CheckpointReader& checkpoint, const Function& function) {
  for (const io::CheckpointUnit& unit : checkpoint.manifest().units)
    if (unit.plane == kPlane)
      for (const io::CheckpointMember& member : unit.members)
        function(member, checkpoint.find(kPlane, io::kParameters, member.name));
}

int64_t num_elements(const io::CheckpointMember& member) {
  int64_t count = 1;
  for (const int64_t extent : member.shape) count *= extent;
  return count;
}

// "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" -> "q_proj"
std::string target_of(const std::string& factor) {
  const std::string module = factor.substr(0, factor.rfind(".lora_"));
  return module.substr(module.rfind('.') + 1);
}

void export_adapter(const io::CheckpointReader& checkpoint, const Options& options,
                    const AdapterOptions& trained) {
  std::vector<std::vector<float>> values;
  std::vector<io::AdapterTensor> tensors;
  std::vector<std::string> targets;  // in the order of a block
  for_each_parameter(checkpoint, [&](const io::CheckpointMember& member, const auto& place) {
    std::vector<float>& data = values.emplace_back(static_cast<size_t>(num_elements(member)));
    checkpoint.read(place, 0, std::as_writable_bytes(std::span(data)));
    tensors.push_back({.name = member.name, .shape = member.shape, .data = data});
    if (const std::string target = target_of(member.name); !std::ranges::count(targets, target))
      targets.push_back(target);
  });
  io::write_adapter(options.get<OutputOptions>().dir,
                    {.r = trained.r,
                     .alpha = trained.alpha,
                     .dropout = trained.dropout,
                     .targets = targets,
                     .base_model = options.get<ModelOptions>().path},
                    tensors);
}

// Elements go through a buffer of this many, so that memory does not grow with the model.
constexpr int64_t kElementsAtOnce = int64_t{1} << 22;

void export_model(const io::CheckpointReader& checkpoint, const Options& options) {
  const bool bf16 = options.get<ModelOptions>().dtype == ModelDtype::kBf16;
  const auto target = bf16 ? io::TargetType::kBFloat16 : io::TargetType::kFloat32;
  std::vector<io::TensorToWrite> tensors;
  for_each_parameter(checkpoint, [&](const io::CheckpointMember& member, const auto& place) {
    const auto source = [&checkpoint, place, target,
                         count = num_elements(member)](const io::ByteSink& sink) {
      const auto stored = static_cast<size_t>(io::dtype_size(place.array->dtype));
      const auto wanted = static_cast<size_t>(io::target_size(target));
      const auto room = static_cast<size_t>(std::min(count, kElementsAtOnce));
      std::vector<std::byte> raw(room * stored), converted(room * wanted);
      for (int64_t first = 0; first < count; first += kElementsAtOnce) {
        const auto part = static_cast<size_t>(std::min(kElementsAtOnce, count - first));
        checkpoint.read(place, first, std::span(raw).first(part * stored));
        io::convert_elements(place.array->dtype, raw.data(), static_cast<int64_t>(part), target,
                             converted.data());
        sink(std::span<const std::byte>(converted).first(part * wanted));
      }
    };
    tensors.push_back({.name = member.name,
                       .dtype = bf16 ? io::DType::kBF16 : io::DType::kF32,
                       .shape = member.shape,
                       .source = source});
  });
  io::write_huggingface_directory(
      options.get<OutputOptions>().dir,
      {.config_json = train::config_json_for(options.get<ModelOptions>().path, bf16),
       .tensors = tensors,
       .tokenizer_dir = options.get<ModelOptions>().path});
}

}  // namespace

void export_checkpoint(const OptionTable& table, const io::CheckpointReader& checkpoint,
                       const Options& options) {
  const Options trained = options_of(table, checkpoint);
  if (trained.get<AdapterOptions>().type == AdapterType::kLora)
    export_adapter(checkpoint, options, trained.get<AdapterOptions>());
  else
    export_model(checkpoint, options);
}

}  // namespace vax::app
