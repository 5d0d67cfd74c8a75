// Private to this folder.
// What tokenizer_config.json of a Hugging Face directory adds to the SentencePiece model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace vax::data {

struct SpecialToken {
  std::string text;
  int64_t id = 0;
};

struct TokenizerConfig {
  bool add_bos = true;                // add_bos_token
  std::vector<SpecialToken> special;  // added_tokens_decoder entries with "special": true
};

// The defaults when there is no such file. THROWS DataError (path, key, expected, found).
TokenizerConfig read_tokenizer_config(const std::filesystem::path& path);

}  // namespace vax::data
