#include "model/lora.h"

#include "base/error.h"

namespace vax::model {
namespace {

// Empty where the block has no such layer.
std::string target_name(const Spec& spec, size_t projection) {
  const std::string& name = spec.names.linears.at(projection);
  return name.substr(name.find_last_of('.') + 1);
}

std::string all_names(const Spec& spec) {
  std::string list;
  for (size_t p = 0; p < kNumProjections; ++p)
    if (const std::string name = target_name(spec, p); !name.empty())
      list += cat(list.empty() ? "" : ", ", name);
  return list;
}

}  // namespace

LoraSpec make_lora_spec(const Spec& spec, int64_t r, double alpha,
                        const std::vector<std::string>& targets) {
  LoraSpec lora{.r = r, .alpha = alpha};
  for (size_t p = 0; p < kNumProjections; ++p)
    lora.targets[p] = targets.empty() && !target_name(spec, p).empty();
  for (const std::string& target : targets) {
    size_t p = 0;
    while (p < kNumProjections && (target.empty() || target_name(spec, p) != target)) ++p;
    if (p == kNumProjections)
      throw ConfigError(cat("adapter.targets: no linear layer is called '", target, "'; a ",
                            spec.family, " block has ", all_names(spec)));
    lora.targets[p] = true;
  }
  return lora;
}

std::vector<std::string> target_names(const Spec& spec, const LoraSpec& lora) {
  std::vector<std::string> names;
  for (size_t p = 0; p < kNumProjections; ++p)
    if (lora.targets[p]) names.push_back(target_name(spec, p));
  return names;
}

}  // namespace vax::model
