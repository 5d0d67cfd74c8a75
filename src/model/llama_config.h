// The shape of a Llama model as its config.json states it. Both layouts of the rotary settings are
// read: rope_theta and rope_scaling at the top (transformers 4), rope_parameters (transformers 5).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/init_options.h"

namespace vax::model {

// Frequency scaling of the rotary embedding: "default", "linear" or "llama3".
struct RotaryScaling {
  std::string type = "default";
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_max_position_embeddings = 8192;
};

struct LlamaConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;        // D
  int64_t intermediate_size = 0;  // F
  int64_t num_layers = 0;         // L
  int64_t num_heads = 0;          // H
  int64_t num_kv_heads = 0;       // KV, divides H
  int64_t head_dim = 0;           // K, even
  int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  RotaryScaling rope_scaling;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;

  int64_t qkv_width() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
};

// THROWS DataError naming `path`, the key, expected and found, for what is missing, ill-typed,
// inconsistent (H not divisible by KV, odd head_dim) or not supported (another architecture,
// another activation, another rope type).
LlamaConfig read_llama_config(const std::filesystem::path& path);
LlamaConfig parse_llama_config(const std::string& json_text, const std::string& path);

// config.json for transformers. `torch_dtype` is "float32" or "bfloat16".
std::string to_config_json(const LlamaConfig& config, const std::string& torch_dtype,
                           int64_t bos_id, int64_t eos_id, double initializer_range);

LlamaConfig make_llama_config(const InitOptions& options);

// inverse frequencies [K/2] with scaling applied, as transformers computes them (in fp32 steps).
std::vector<float> rotary_frequencies(const LlamaConfig& config);

}  // namespace vax::model
