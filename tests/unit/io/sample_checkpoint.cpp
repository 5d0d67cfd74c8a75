#include "sample_checkpoint.h"

#include <cstring>

namespace vax::io::testing {

namespace fs = std::filesystem;

CheckpointManifest sample_manifest() {
  CheckpointManifest manifest;
  manifest.program_version = "0.1.0";
  manifest.config = "[train]\nlr = 0.001\n";
  manifest.data = {{"align", "data/a b.json", std::string(64, 'a'), 7}};
  manifest.position = {120, 500, 7, 18446744073709551615U};
  const auto arrays = [] {
    return std::vector<CheckpointArray>{{std::string(kParameters), DType::kF32, {}},
                                        {std::string(kExpAvg), DType::kF32, {}},
                                        {std::string(kExpAvgSq), DType::kBF16, {}}};
  };
  // Offsets leave gaps, as alignment does.
  CheckpointUnit block{"trainable",
                       "model.layers.0",
                       72,
                       0,
                       {{"model.layers.0.q_proj.weight", {6, 5}, 0},
                        {"model.layers.0.norm.weight", {7}, 32},
                        {"model.layers.0.conv.weight", {2, 3, 4}, 48}},
                       arrays()};
  CheckpointUnit head{"trainable", "lm_head", 9, 0, {{"lm_head.weight", {3, 3}, 0}}, arrays()};
  CheckpointUnit embedding{"frozen",
                           "model.embed_tokens",
                           44,
                           0,
                           {{"model.embed_tokens.weight", {11, 4}, 0}},
                           {{std::string(kParameters), DType::kBF16, {}}}};
  manifest.units = {block, head, embedding};
  return manifest;
}

float sample_element(size_t unit, size_t kind, int64_t i, DType dtype) {
  if (dtype == DType::kBF16) return static_cast<float>((i + static_cast<int64_t>(unit)) % 250);
  return static_cast<float>(10000 * unit + 1000 * kind) + static_cast<float>(i) + 0.25F;
}

std::vector<std::byte> sample_bytes(size_t unit, size_t kind, DType dtype, int64_t first,
                                    int64_t n) {
  const auto size = static_cast<size_t>(dtype_size(dtype));
  std::vector<std::byte> bytes(static_cast<size_t>(n) * size);
  for (int64_t i = 0; i < n; ++i) {
    const float value = sample_element(unit, kind, first + i, dtype);
    const uint16_t half = bf16_from_float(value);
    const void* source = dtype == DType::kBF16 ? static_cast<const void*>(&half) : &value;
    std::memcpy(bytes.data() + static_cast<size_t>(i) * size, source, size);
  }
  return bytes;
}

CheckpointManifest write_sample_checkpoint(const fs::path& directory, int num_ranks) {
  fs::create_directories(directory);
  CheckpointManifest manifest = sample_manifest();
  manifest.world_size = num_ranks;
  write_rank_files(directory, manifest, num_ranks, sample_bytes);
  manifest.files.push_back(write_index(directory, manifest));
  write_manifest(directory, manifest);
  return manifest;
}

}  // namespace vax::io::testing
