// Options [init]: keys of config.json for `vaccine init`, named as there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/option.h"

namespace vax {

struct InitOptions {
  VAX_SECTION(InitOptions, .name = "init", .users = kInit);
  VAX_OPTION(int64_t, vocab_size, 0, "rows of the embedding; 0: the tokenizer's",
             .legal = at_least(0));
  VAX_OPTION(int64_t, hidden_size, 128, "width of the residual stream", .legal = at_least(1));
  VAX_OPTION(int64_t, intermediate_size, 352, "width inside the MLP", .legal = at_least(1));
  VAX_OPTION(int64_t, num_hidden_layers, 4, "blocks", .legal = at_least(1));
  VAX_OPTION(int64_t, num_attention_heads, 4, "query heads", .legal = at_least(1));
  VAX_OPTION(std::optional<int64_t>, num_key_value_heads, {}, "divides num_attention_heads",
             .legal = at_least(1), .unset = "query heads");
  VAX_OPTION(std::optional<int64_t>, head_dim, {}, "width of a head, even",
             .legal = even(at_least(2)), .unset = "hidden / heads");
  VAX_OPTION(int64_t, max_position_embeddings, 2048, "longest sequence, in token ids",
             .legal = at_least(1));
  VAX_OPTION(double, rms_norm_eps, 1e-5, "added to the mean square", .legal = above(0));
  VAX_OPTION(double, rope_theta, 10000, "base of the rotary frequencies", .legal = above(0));
  VAX_OPTION(bool, tie_word_embeddings, false, "head = embedding");
  VAX_OPTION(bool, attention_bias, false, "biases on q, k, v, o");
  VAX_OPTION(double, initializer_range, 0.02, "deviation of the weights", .legal = at_least(0));
  VAX_OPTION(std::string, tokenizer_path, {}, "tokenizer.model, or a directory with a tokenizer");
  VAX_OPTION(uint64_t, seed, 42, "of the weights");
};

}  // namespace vax
