// Options [model] and [adapter]: the weights that a subcommand computes with or trains.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/option.h"

namespace vax {

enum class ModelDtype { kDefault, kFp32, kBf16 };  // kDefault: fp32, on a GPU bf16
constexpr auto words_of(ModelDtype) {
  return std::to_array<std::string_view>({"", "fp32", "bf16"});
}

enum class AdapterType { kLora, kNone };
constexpr auto words_of(AdapterType) { return std::to_array<std::string_view>({"lora", "none"}); }

// Arithmetic of a method's passes before the one that trains; kSame: as the training.
enum class ProbeDtype { kSame, kBf16, kFp8 };
constexpr auto words_of(ProbeDtype) {
  return std::to_array<std::string_view>({"same", "bf16", "fp8"});
}

struct ModelOptions {
  VAX_SECTION(ModelOptions, .name = "model", .users = kWeightUsers);
  VAX_OPTION(std::string, path, {}, "Hugging Face directory of the model",
             .users = kWeightUsers | kTokenize | kPlan);
  VAX_OPTION(ModelDtype, dtype, ModelDtype::kDefault, "frozen weights and products",
             .unset = "by device", .users = kWeightUsers | kInit | kPlan);
};

struct AdapterOptions {
  VAX_SECTION(AdapterOptions, .name = "adapter", .users = kTraining);
  VAX_OPTION(AdapterType, type, AdapterType::kLora, "LoRA factors or, for none, every weight",
             .users = kTraining | kPlan, .on_resume = OnResume::kRefused);
  VAX_OPTION(int64_t, r, 8, "rank of the LoRA factors", .legal = at_least(1),
             .users = kTraining | kPlan, .on_resume = OnResume::kRefused);
  VAX_OPTION(double, alpha, 4, "LoRA scale: the factors' product times alpha / r",
             .legal = above(0), .on_resume = OnResume::kRefused);
  VAX_OPTION(double, dropout, 0.1, "probability, at the input of the LoRA branch",
             .legal = from_up_to(0, 1));
  VAX_OPTION(std::vector<std::string>, targets, {}, "projections that get LoRA factors (list)",
             .legal = distinct(one_of({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
                                       "up_proj", "down_proj"})),
             .unset = "all", .users = kTraining | kPlan, .on_resume = OnResume::kRefused);
  VAX_OPTION(std::vector<std::string>, merge, {},
             "PEFT directories merged into the model, in order (list)", .users = kWeightUsers);
  VAX_OPTION(std::string, init, {}, "PEFT directory to go on from; its shape holds");
};

}  // namespace vax
