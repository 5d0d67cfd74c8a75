// Options [init]: keys of config.json for `vaccine init`; named as there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace vax {

struct InitOptions {
  int64_t vocab_size = 0;  // 0 = the tokenizer's
  int64_t hidden_size = 128;
  int64_t intermediate_size = 352;
  int64_t num_hidden_layers = 4;
  int64_t num_attention_heads = 4;
  std::optional<int64_t> num_key_value_heads;  // num_attention_heads
  std::optional<int64_t> head_dim;             // hidden_size / num_attention_heads
  int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-5;
  double rope_theta = 10000;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  double initializer_range = 0.02;
  std::string tokenizer_path;  // tokenizer.model
  uint64_t seed = 42;
};

}  // namespace vax
