#include "data/tokenizer.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/narrow.h"
#include "data/tokenizer_config.h"
#include "data/utf8.h"

namespace vax::data {
namespace {

namespace fs = std::filesystem;

fs::path model_file(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error))
    throw DataError(cat(path.string(),
                        ": expected a tokenizer.model or a directory with one, found ",
                        error ? error.message() : "nothing there"));
  if (!fs::is_directory(path, error)) return path;
  fs::path file = path / "tokenizer.model";
  if (fs::exists(file, error)) return file;
  const bool other =
      fs::exists(path / "tokenizer.json", error) || fs::exists(path / "vocab.json", error);
  throw DataError(cat(path.string(), ": expected a SentencePiece tokenizer.model, found ",
                      other ? "only other tokenizer files (tokenizer.json, vocab.json), which are "
                              "not read: take tokenizer.model from the original release"
                            : "none"));
}

void append_spaces_unescaped(std::string_view piece, std::string& text) {
  while (!piece.empty()) {
    const size_t space = piece.find(kSpaceSymbol);
    text += piece.substr(0, space);
    if (space == std::string_view::npos) return;
    text += ' ';
    piece.remove_prefix(space + kSpaceSymbol.size());
  }
}

void append_replacing_invalid(std::string_view bytes, std::string& text) {
  while (!bytes.empty()) {
    const size_t length = utf8_char_length(bytes);
    text += length > 0 ? bytes.substr(0, length) : kReplacementCharacter;
    bytes.remove_prefix(std::max<size_t>(length, 1));
  }
}

// Decoding in the order of the ids, by the rules of SentencePiece's DecodeIds (Apache License 2.0,
// read for them; the code is our own). The first U+2581 of a text is the dummy prefix and is
// dropped; with remove_extra_whitespaces so is every one before the first visible character.
class Decoder {
 public:
  explicit Decoder(const SentencePieceModel& model) : model_(model) {}

  void add(const Piece& piece) {
    if (piece.type == PieceType::kByte) {
      bytes_ += static_cast<char>(byte_of_piece(piece.text));
      return;
    }
    flush_bytes();
    if (prefix_dropped_ || !text_.empty()) at_start_ = false;
    prefix_dropped_ = false;
    if (piece.type == PieceType::kControl) return;
    if (piece.type == PieceType::kUnknown) {
      text_ += model_.unk_surface;
      return;
    }
    std::string_view rest = piece.text;
    const bool may_drop = model_.add_dummy_prefix || model_.remove_extra_whitespaces;
    if (at_start_ && may_drop && rest.starts_with(kSpaceSymbol)) {
      rest.remove_prefix(kSpaceSymbol.size());
      prefix_dropped_ = !model_.remove_extra_whitespaces;
    }
    append_spaces_unescaped(rest, text_);
  }

  std::string finish() {
    flush_bytes();
    return std::move(text_);
  }

 private:
  void flush_bytes() {
    append_replacing_invalid(bytes_, text_);
    bytes_.clear();
  }

  const SentencePieceModel& model_;
  std::string text_;
  std::string bytes_;  // of byte pieces not yet joined to characters
  bool at_start_ = true;
  bool prefix_dropped_ = false;  // by the piece before
};

}  // namespace

Tokenizer Tokenizer::load(const fs::path& path) {
  const fs::path file = model_file(path);
  Tokenizer tokenizer;
  tokenizer.model_ = std::make_unique<const SentencePieceModel>(
      parse_sentencepiece_model(read_file(file), file.string()));
  const SentencePieceModel& model = *tokenizer.model_;
  tokenizer.encoder_ = std::make_unique<const BpeEncoder>(model);
  tokenizer.vocab_size_ = narrow<int64_t>(model.pieces.size());
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    if (piece.type == PieceType::kControl || piece.type == PieceType::kUnknown)
      tokenizer.special_.add(piece.text, narrow<int64_t>(id));
  }
  if (file != path) {  // a directory
    const fs::path config_file = path / "tokenizer_config.json";
    const TokenizerConfig config = read_tokenizer_config(config_file);
    tokenizer.add_bos_ = config.add_bos;
    for (const SpecialToken& token : config.special)
      tokenizer.add_special(token.text, token.id, config_file.string());
  }
  if (tokenizer.add_bos_ && model.bos_id < 0)
    throw DataError(cat(file.string(), ": the model has no begin-of-sequence piece (CONTROL, by ",
                        "default '<s>'); expected one, as texts start with it"));
  return tokenizer;
}

// A special token of tokenizer_config.json: a piece of the model under its own id, or an id beyond
// the model's pieces.
void Tokenizer::add_special(std::string_view text, int64_t id, const std::string& where) {
  const auto num_pieces = narrow<int64_t>(model_->pieces.size());
  constexpr int64_t kMostAdded = 1 << 16;  // a mistyped id must not make a vocabulary of 10^18
  if (id >= num_pieces + kMostAdded)
    throw DataError(cat(where, ": added token '", text, "' has id ", id, ", expected less than ",
                        num_pieces + kMostAdded));
  if (id < num_pieces && model_->pieces[static_cast<size_t>(id)].text != text)
    throw DataError(cat(where, ": added token '", text, "' has id ", id, ", which is '",
                        model_->pieces[static_cast<size_t>(id)].text, "' in tokenizer.model"));
  const PrefixMatcher::Match known = special_.longest_prefix(text);
  if (known.length == text.size() && known.id != id)
    throw DataError(cat(where, ": added token '", text, "' has id ", id, ", expected ", known.id,
                        " as in tokenizer.model"));
  special_.add(text, id);
  vocab_size_ = std::max(vocab_size_, id + 1);
}

std::vector<int64_t> Tokenizer::encode(std::string_view text, bool parse_special) const {
  std::vector<int64_t> ids;
  if (!parse_special) {
    encoder_->encode(text, ids);
    return ids;
  }
  size_t segment = 0;
  size_t at = 0;
  while (at < text.size()) {
    const PrefixMatcher::Match match = special_.longest_prefix(text.substr(at));
    if (match.length == 0) {
      ++at;
      continue;
    }
    encoder_->encode(text.substr(segment, at - segment), ids);
    ids.push_back(match.id);
    at += match.length;
    segment = at;
  }
  encoder_->encode(text.substr(segment), ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int64_t> ids) const {
  Decoder decoder(*model_);
  const auto num_pieces = narrow<int64_t>(model_->pieces.size());
  static const Piece kAdded{.text = "", .score = 0, .type = PieceType::kControl};
  for (const int64_t id : ids) {
    if (id < 0 || id >= vocab_size_)
      throw DataError(cat("id ", id, " cannot be decoded: expected 0 to ", vocab_size_ - 1));
    decoder.add(id < num_pieces ? model_->pieces[static_cast<size_t>(id)] : kAdded);
  }
  return decoder.finish();
}

}  // namespace vax::data
