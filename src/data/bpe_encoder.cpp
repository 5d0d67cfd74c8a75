#include "data/bpe_encoder.h"

#include <algorithm>
#include <queue>

#include "base/narrow.h"
#include "data/utf8.h"

namespace vax::data {
namespace {

bool is_mergeable(PieceType type) {
  return type == PieceType::kNormal || type == PieceType::kUserDefined ||
         type == PieceType::kUnused;
}

// Whether U+2581 stands in `piece` anywhere but in its leading run: then a word can merge with the
// space that follows it.
bool crosses_words(std::string_view piece) {
  while (piece.starts_with(kSpaceSymbol)) piece.remove_prefix(kSpaceSymbol.size());
  return piece.find(kSpaceSymbol) != std::string_view::npos;
}

}  // namespace

// The symbols of one word (or of the whole text) while they merge. Reused from word to word, so
// that its buffers are allocated once per text.
class BpeEncoder::Workspace {
 public:
  struct Symbol {
    std::string_view text;  // empty once merged into its left neighbour
    int32_t id = -1;        // -1: not in the vocabulary
    int prev = -1;
    int next = -1;
    bool frozen = false;
  };

  explicit Workspace(const BpeEncoder& encoder) : encoder_(encoder) {}

  void segment(std::string_view word) {
    split(word);
    for (size_t i = 1; i < symbols_.size(); ++i)
      offer(static_cast<int>(i) - 1, static_cast<int>(i));
    while (!agenda_.empty()) {
      const Merge merge = agenda_.top();
      agenda_.pop();
      apply(merge);
    }
  }

  const std::vector<Symbol>& symbols() const { return symbols_; }

  // What the UNUSED piece `text` was last merged from.
  struct Parts {
    std::string_view left;
    std::string_view right;
  };
  const Parts* parts_of(std::string_view text) const {
    const auto found = merged_from_.find(text);
    return found == merged_from_.end() ? nullptr : &found->second;
  }

 private:
  struct Merge {
    float score;
    int left;
    int right;
    int32_t id;
    size_t size;  // bytes of both symbols when it was offered; stale when they have changed
  };
  struct Later {
    bool operator()(const Merge& a, const Merge& b) const {
      return a.score < b.score || (a.score == b.score && a.left > b.left);
    }
  };

  void split(std::string_view word) {
    symbols_.clear();
    while (!word.empty()) {
      const PrefixMatcher::Match match = encoder_.user_defined_.longest_prefix(word);
      const size_t length =
          match.length > 0 ? match.length : std::max<size_t>(utf8_char_length(word), 1);
      const int index = static_cast<int>(symbols_.size());
      const std::string_view text = word.substr(0, length);
      word.remove_prefix(length);
      symbols_.push_back({.text = text,
                          .id = encoder_.mergeable_id(text),
                          .prev = index - 1,
                          .next = word.empty() ? -1 : index + 1,
                          .frozen = match.length > 0});
    }
  }

  // Queues the merge of two neighbours when their joined text is a piece.
  void offer(int left, int right) {
    if (left < 0 || right < 0) return;
    const Symbol& a = at(left);
    const Symbol& b = at(right);
    if (a.frozen || b.frozen) return;
    const std::string_view joined(a.text.data(), a.text.size() + b.text.size());
    const int32_t id = encoder_.mergeable_id(joined);
    if (id < 0) return;
    const Piece& piece = encoder_.model_.pieces[static_cast<size_t>(id)];
    agenda_.push({piece.score, left, right, id, joined.size()});
    if (piece.type == PieceType::kUnused) merged_from_[joined] = {.left = a.text, .right = b.text};
  }

  void apply(const Merge& merge) {
    Symbol& left = at(merge.left);
    Symbol& right = at(merge.right);
    if (left.text.empty() || right.text.empty() ||
        left.text.size() + right.text.size() != merge.size)
      return;
    left.text = {left.text.data(), merge.size};
    left.id = merge.id;
    left.next = right.next;
    if (right.next >= 0) at(right.next).prev = merge.left;
    right.text = {};
    offer(left.prev, merge.left);
    offer(merge.left, left.next);
  }

  Symbol& at(int index) { return symbols_[static_cast<size_t>(index)]; }

  const BpeEncoder& encoder_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Merge, std::vector<Merge>, Later> agenda_;
  std::unordered_map<std::string_view, Parts> merged_from_;
};

BpeEncoder::BpeEncoder(const SentencePieceModel& model) : model_(model) {
  mergeable_.reserve(model.pieces.size());
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    if (!is_mergeable(piece.type)) continue;
    mergeable_.emplace(piece.text, narrow<int32_t>(id));
    longest_piece_ = std::max(longest_piece_, piece.text.size());
    if (piece.type == PieceType::kUserDefined) user_defined_.add(piece.text, narrow<int64_t>(id));
    if (piece.type == PieceType::kUnused || crosses_words(piece.text)) cut_at_words_ = false;
  }
}

int32_t BpeEncoder::mergeable_id(std::string_view text) const {
  if (text.size() > longest_piece_) return -1;  // keeps look-ups of long joins O(1)
  const auto found = mergeable_.find(text);
  return found == mergeable_.end() ? -1 : found->second;
}

// One USER_DEFINED piece or one character of the raw text.
std::string_view BpeEncoder::next_unit(std::string_view text, size_t& consumed) const {
  const PrefixMatcher::Match match = user_defined_.longest_prefix(text);
  consumed = match.length > 0 ? match.length : utf8_char_length(text);
  if (consumed > 0) return text.substr(0, consumed);
  consumed = 1;
  return kReplacementCharacter;
}

void BpeEncoder::append_unit(std::string_view unit, bool drop_spaces, std::string& out) const {
  if (drop_spaces) unit.remove_prefix(std::min(unit.find_first_not_of(' '), unit.size()));
  for (const char c : unit) {
    if (c == ' ' && model_.escape_whitespaces)
      out += kSpaceSymbol;
    else
      out += c;
  }
}

std::string BpeEncoder::normalize(std::string_view text) const {
  const std::string_view space = model_.escape_whitespaces ? kSpaceSymbol : " ";
  size_t consumed = 0;
  if (model_.remove_extra_whitespaces) {
    while (!text.empty() && next_unit(text, consumed) == " ") text.remove_prefix(consumed);
  }
  std::string out;
  if (text.empty()) return out;
  out.reserve(text.size() + text.size() / 2 + kSpaceSymbol.size());
  if (model_.add_dummy_prefix && !model_.treat_whitespace_as_suffix) out += space;
  bool after_space = model_.remove_extra_whitespaces;
  while (!text.empty()) {
    const std::string_view unit = next_unit(text, consumed);
    text.remove_prefix(consumed);
    append_unit(unit, after_space, out);
    after_space = model_.remove_extra_whitespaces && unit.ends_with(' ');
  }
  if (model_.remove_extra_whitespaces) {
    while (out.ends_with(space)) out.erase(out.size() - space.size());
  }
  if (model_.add_dummy_prefix && model_.treat_whitespace_as_suffix) out += space;
  return out;
}

// The part of `rest` before its second run of U+2581 begins, or all of it when the model has pieces
// that reach over such a place.
std::string_view BpeEncoder::next_word(std::string_view rest) const {
  if (!cut_at_words_) return rest;
  size_t end = 0;
  while (rest.substr(end).starts_with(kSpaceSymbol)) end += kSpaceSymbol.size();
  return rest.substr(0, rest.find(kSpaceSymbol, end));
}

void BpeEncoder::encode(std::string_view text, std::vector<int64_t>& ids) const {
  const std::string normalized = normalize(text);
  Workspace work(*this);
  bool after_unknown = false;
  for (std::string_view rest = normalized; !rest.empty();) {
    const std::string_view word = next_word(rest);
    work.segment(word);
    for (const auto& symbol : work.symbols())
      if (!symbol.text.empty()) emit(work, symbol.text, symbol.id, ids, after_unknown);
    rest.remove_prefix(word.size());
  }
}

// One symbol that is left after the merges; an UNUSED piece falls apart into what it was merged
// from.
void BpeEncoder::emit(const Workspace& work, std::string_view symbol, int32_t symbol_id,
                      std::vector<int64_t>& ids, bool& after_unknown) const {
  const auto parts_of = [&](std::string_view text, int32_t id) {
    const bool unused =
        id >= 0 && model_.pieces[static_cast<size_t>(id)].type == PieceType::kUnused;
    return unused ? work.parts_of(text) : nullptr;
  };
  const Workspace::Parts* parts = parts_of(symbol, symbol_id);
  if (parts == nullptr) return emit_known(symbol, symbol_id, ids, after_unknown);
  std::vector<std::string_view> pending{parts->right, parts->left};  // the back comes first
  while (!pending.empty()) {
    const std::string_view text = pending.back();
    pending.pop_back();
    const int32_t id = mergeable_id(text);
    parts = parts_of(text, id);
    if (parts == nullptr)
      emit_known(text, id, ids, after_unknown);
    else
      pending.insert(pending.end(), {parts->right, parts->left});
  }
}

void BpeEncoder::emit_known(std::string_view text, int32_t id, std::vector<int64_t>& ids,
                            bool& after_unknown) const {
  if (id >= 0) {
    ids.push_back(id);
  } else if (model_.byte_fallback) {
    for (const char byte : text) ids.push_back(model_.byte_ids[static_cast<unsigned char>(byte)]);
  } else if (!after_unknown) {
    ids.push_back(model_.unk_id);
  }
  after_unknown = id < 0;
}

}  // namespace vax::data
