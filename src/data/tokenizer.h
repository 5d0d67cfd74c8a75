// Text <-> ids of a SentencePiece BPE model (Llama, Llama-2, Vicuna), read from `tokenizer.model`
// without the SentencePiece library. Ids and decoded text equal the library's
// (tests/parity/tokenizer_parity.py). Invariant: text never turns into a control token unless the
// caller asks for it with parse_special; "</s>" in a user's text is four characters.
// Const after load(), so threads may share one. Movable, not copyable.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/bpe_encoder.h"
#include "data/prefix_matcher.h"
#include "data/sentencepiece_model.h"

namespace vax::data {

class Tokenizer {
 public:
  // A Hugging Face directory (tokenizer.model, and tokenizer_config.json when it is there) or a
  // tokenizer.model. THROWS DataError naming the file when it is missing, damaged, hostile, not
  // BPE, normalises text, or is a directory that has only a tokenizer.json.
  static Tokenizer load(const std::filesystem::path& path);

  // Ids of `text` without bos and eos. With parse_special the rule of the original Llama code and
  // of Hugging Face's LlamaTokenizer with legacy=True: the text is split at every occurrence of a
  // special token (the UNKNOWN and CONTROL pieces, and the special added tokens of
  // tokenizer_config.json; leftmost first, the longest at a place), which gives its own id; every
  // non-empty part between is encoded as a text of its own, dummy prefix included. White space
  // beside a special token is kept.
  // Invalid UTF-8 is encoded as U+FFFD byte by byte; it is no error here.
  std::vector<int64_t> encode(std::string_view text, bool parse_special = false) const;

  // SentencePiece's DecodeIds: byte pieces are joined to characters (U+FFFD where that fails), the
  // dummy prefix is dropped, control tokens vanish, the unknown id gives unk_surface. Valid UTF-8.
  // THROWS DataError when an id is not in [0, vocab_size()).
  std::string decode(std::span<const int64_t> ids) const;

  // Number of ids, special added tokens included.
  int64_t vocab_size() const { return vocab_size_; }
  // -1 = the model has none.
  int64_t bos_id() const { return model_->bos_id; }
  int64_t eos_id() const { return model_->eos_id; }
  int64_t unk_id() const { return model_->unk_id; }
  int64_t pad_id() const { return model_->pad_id; }
  // Whether texts start with bos: add_bos_token of tokenizer_config.json, true without one. Then
  // bos_id() >= 0.
  bool add_bos() const { return add_bos_; }

 private:
  Tokenizer() = default;
  void add_special(std::string_view text, int64_t id, const std::string& where);

  std::unique_ptr<const SentencePieceModel> model_;  // an address that encoder_ can keep
  std::unique_ptr<const BpeEncoder> encoder_;
  PrefixMatcher special_;
  int64_t vocab_size_ = 0;
  bool add_bos_ = true;
};

}  // namespace vax::data
