// Options [model] and [adapter]: the weights that a subcommand computes with or trains.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/choice.h"

namespace vax {

enum class ModelDtype { kDefault, kFp32, kBf16 };  // kDefault: fp32, on a GPU bf16
constexpr auto words_of(ModelDtype) {
  return std::to_array<std::string_view>({"", "fp32", "bf16"});
}

enum class AdapterType { kLora, kNone };  // kNone: full parameters
constexpr auto words_of(AdapterType) { return std::to_array<std::string_view>({"lora", "none"}); }

// Arithmetic of a method's passes before the one that trains; kSame: as the training.
enum class ProbeDtype { kSame, kBf16, kFp8 };
constexpr auto words_of(ProbeDtype) {
  return std::to_array<std::string_view>({"same", "bf16", "fp8"});
}

struct ModelOptions {
  std::string path;                         // Hugging Face directory
  ModelDtype dtype = ModelDtype::kDefault;  // of frozen weights and GEMM inputs
};

struct AdapterOptions {
  AdapterType type = AdapterType::kLora;
  int64_t r = 8;
  double alpha = 4;
  double dropout = 0.1;
  std::vector<std::string> targets;  // projection names; empty = all linear layers of a block
  std::string dtype = "fp32";
  std::vector<std::string> merge;  // PEFT directories merged into the base first, in order
  std::string init;                // PEFT directory to go on from
};

}  // namespace vax
