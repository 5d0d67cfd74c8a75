// LoRA adapters in the layout of the `peft` package: a directory with adapter_config.json and
// adapter_model.safetensors, tensors named "base_model.model." + module + ".lora_A.weight" [r, in]
// and ".lora_B.weight" [out, r]; the layer computes base(x) + (alpha / r) * B A x.
//
// What is read is plain LoRA only. A configuration that asks for anything else (another scaling,
// other trained modules, a changed base) is refused: ignoring it would give wrong weights silently.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace vax::io {

struct AdapterConfig {
  int64_t r = 8;
  double alpha = 4;
  double dropout = 0;
  std::vector<std::string> targets;  // projection names such as "q_proj", in the file's order
  std::string base_model;            // path or hub name; may be empty
};

// An fp32 tensor to write.
struct AdapterTensor {
  std::string name;  // as in the file, "base_model.model.....lora_A.weight"
  std::vector<int64_t> shape;
  std::span<const float> data;  // row-major
};

// One adapted linear layer of an adapter on disk.
struct AdapterModule {
  std::string name;               // of the base's module: "model.layers.0.self_attn.q_proj"
  const TensorInfo* a = nullptr;  // [r, in_features]
  const TensorInfo* b = nullptr;  // [out_features, r]
};

// "base_model.model.<module>.lora_A.weight" and the same with lora_B.
std::string lora_a_name(const std::string& module);
std::string lora_b_name(const std::string& module);

// THROWS DataError naming file, key, expected and found.
AdapterConfig read_adapter_config(const std::filesystem::path& directory);

class PeftAdapter {
 public:
  // Reads configuration and header, and checks that the tensors are exactly pairs A, B of rank r on
  // modules that the targets name. THROWS DataError; pickle files (adapter_model.bin) are refused.
  static PeftAdapter open(const std::filesystem::path& directory);

  const AdapterConfig& config() const { return config_; }
  // Sorted by name; the pointers live as long as this object, also when it is moved.
  const std::vector<AdapterModule>& modules() const { return modules_; }
  // As SafetensorsFile::read_elements.
  void read_elements(const TensorInfo& info, int64_t first, int64_t count, void* destination,
                     TargetType target) const {
    file_.read_elements(info, first, count, destination, target);
  }

 private:
  PeftAdapter(AdapterConfig config, SafetensorsFile file)
      : config_(std::move(config)), file_(std::move(file)) {}

  AdapterConfig config_;
  SafetensorsFile file_;
  std::vector<AdapterModule> modules_;
};

// Replaces both files of `directory` at once when they are complete. `peft` loads the result (task
// CAUSAL_LM, inference mode). THROWS WriteError; nothing is left behind then. std::logic_error when
// a tensor does not have the name and shape of a LoRA factor.
void write_adapter(const std::filesystem::path& directory, const AdapterConfig& config,
                   std::span<const AdapterTensor> tensors);

}  // namespace vax::io
