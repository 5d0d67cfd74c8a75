// Text -> ids of a SentencePiece BPE model, without special tokens: white-space normalisation, then
// merges. Both follow SentencePiece's rules exactly; they were taken from reading its
// normalizer and BPE sources (Apache License 2.0), the steps follow those closely, the code is our
// own. tests/parity/tokenizer_parity.py compares the ids with that library's.
//   - invalid UTF-8 becomes U+FFFD byte by byte; a space becomes U+2581 when escape_whitespaces;
//     add_dummy_prefix puts one in front (behind, with treat_whitespace_as_suffix);
//     remove_extra_whitespaces drops leading and trailing spaces and joins runs.
//   - the longest USER_DEFINED piece at a position becomes a symbol that never merges, all else
//     starts as one symbol a character; the pair whose joined text is the piece with the highest
//     score merges first, the leftmost among equals; an UNUSED piece that remains falls apart again
//     into the parts it was merged from; a symbol outside the vocabulary gives its byte pieces, or
//     one unknown id per run.
// Cost O(n log n). Invariant that is easy to break: with UNUSED pieces the way a piece falls apart
// depends on the whole text, so only models without them may be cut at word starts.
// Borrows the model, which must outlive it; const after construction, so threads may share it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/prefix_matcher.h"
#include "data/sentencepiece_model.h"

namespace vax::data {

class BpeEncoder {
 public:
  explicit BpeEncoder(const SentencePieceModel& model);

  // Appends the ids of `text` to `ids`. No error is possible: every text has an encoding.
  void encode(std::string_view text, std::vector<int64_t>& ids) const;

  // The text that is cut into pieces.
  std::string normalize(std::string_view text) const;

 private:
  class Workspace;

  int32_t mergeable_id(std::string_view text) const;
  std::string_view next_unit(std::string_view text, size_t& consumed) const;
  void append_unit(std::string_view unit, bool drop_spaces, std::string& out) const;
  std::string_view next_word(std::string_view rest) const;
  void emit(const Workspace& work, std::string_view symbol, int32_t symbol_id,
            std::vector<int64_t>& ids, bool& after_unknown) const;
  void emit_known(std::string_view text, int32_t id, std::vector<int64_t>& ids,
                  bool& after_unknown) const;

  const SentencePieceModel& model_;
  PrefixMatcher user_defined_;
  // NORMAL, USER_DEFINED and UNUSED pieces: what a merge may form. Keys view the model's pieces.
  std::unordered_map<std::string_view, int32_t> mergeable_;
  size_t longest_piece_ = 0;  // bytes
  bool cut_at_words_ = true;
};

}  // namespace vax::data
