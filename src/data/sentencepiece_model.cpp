#include "data/sentencepiece_model.h"

#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "base/narrow.h"
#include "data/utf8.h"
#include "data/wire_format.h"

namespace vax::data {
namespace {

// Field numbers of sentencepiece_model.proto. What is not named here does not change how a text is
// cut, and is skipped.
enum ModelField : uint32_t { kPieces = 1, kTrainer = 2, kNormalizer = 3, kDenormalizer = 5 };
enum PieceField : uint32_t { kPieceText = 1, kPieceScore = 2, kPieceKind = 3 };
enum TrainerField : uint32_t {
  kModelType = 3,
  kWhitespaceAsSuffix = 24,
  kByteFallback = 35,
  kUnkSurface = 44,
  kBosPiece = 46,
  kEosPiece = 47,
  kPadPiece = 48,
};
enum NormalizerField : uint32_t {
  kRuleName = 1,
  kCharsmap = 2,
  kDummyPrefix = 3,
  kRemoveExtraWhitespaces = 4,
  kEscapeWhitespaces = 5,
};

// Longest piece and unk_surface. Real ones have up to about 400 bytes (runs of spaces); without a
// limit a small file could make encoding take a time that grows with the square of the text.
constexpr size_t kMaxTextBytes = 512;

constexpr uint64_t kModelTypeUnigram = 1;
constexpr uint64_t kModelTypeBpe = 2;

// What is needed only until the ids of the special pieces are known.
struct SpecialNames {
  std::string bos = "<s>";
  std::string eos = "</s>";
  std::string pad = "<pad>";
};

struct Parser {
  std::string_view file_name;
  SentencePieceModel model;
  SpecialNames names;
  uint64_t model_type = kModelTypeUnigram;  // what the schema says of a file that names none
  bool has_trainer = false;
  bool has_normalizer = false;

  [[noreturn]] void fail(const std::string& reason) const {
    throw DataError(cat(file_name, ": ", reason));
  }
  void check_length(const std::string& what, std::string_view text) const {
    if (text.size() > kMaxTextBytes)
      fail(cat(what, " has ", text.size(), " bytes, expected at most ", kMaxTextBytes));
  }
  void parse_piece(WireReader reader);
  void parse_trainer(WireReader reader);
  void parse_normalizer(WireReader reader);
  void refuse_charsmap(std::string_view charsmap, std::string_view rule) const;
  void parse(std::string_view bytes);
  void check_pieces();
  void check_byte_pieces() const;
};

void Parser::parse_piece(WireReader reader) {
  Piece piece;
  std::string_view text;
  for (WireField field; reader.next(field);) {
    if (field.number == kPieceText) text = reader.bytes(field);
    if (field.number == kPieceScore) piece.score = reader.number(field);
    if (field.number == kPieceKind) {
      const uint64_t type = reader.unsigned_integer(field);
      if (type < 1 || type > 6)
        fail(cat("piece ", model.pieces.size(), " has type ", type, ", expected 1 to 6"));
      piece.type = static_cast<PieceType>(type);
    }
  }
  // Here, so that a file of such pieces is not first held in memory many times its size.
  if (text.empty()) fail(cat("piece ", model.pieces.size(), " is empty"));
  check_length(cat("piece ", model.pieces.size()), text);
  piece.text = text;
  model.pieces.push_back(std::move(piece));
}

// An empty name means the default, as in SentencePiece.
void set_name(std::string& name, std::string_view value) {
  if (!value.empty()) name = value;
}

void Parser::parse_trainer(WireReader reader) {
  has_trainer = true;
  for (WireField field; reader.next(field);) {
    switch (field.number) {
      case kModelType:
        model_type = reader.unsigned_integer(field);
        break;
      case kWhitespaceAsSuffix:
        model.treat_whitespace_as_suffix = reader.boolean(field);
        break;
      case kByteFallback:
        model.byte_fallback = reader.boolean(field);
        break;
      case kUnkSurface:
        check_length("unk_surface", reader.bytes(field));
        model.unk_surface = reader.bytes(field);
        if (find_invalid_utf8(model.unk_surface)) fail("unk_surface is not valid UTF-8");
        break;
      case kBosPiece:
        set_name(names.bos, reader.bytes(field));
        break;
      case kEosPiece:
        set_name(names.eos, reader.bytes(field));
        break;
      case kPadPiece:
        set_name(names.pad, reader.bytes(field));
        break;
      default:
        break;
    }
  }
}

void Parser::refuse_charsmap(std::string_view charsmap, std::string_view rule) const {
  if (!charsmap.empty())
    fail(cat("the model normalises text with the rule '", rule.substr(0, 64),
             "' (a compiled map of ", charsmap.size(),
             " bytes); only models with the rule 'identity' are supported: "
             "train it with --normalization_rule_name=identity"));
}

void Parser::parse_normalizer(WireReader reader) {
  has_normalizer = true;
  std::string_view rule;
  std::string_view charsmap;
  for (WireField field; reader.next(field);) {
    switch (field.number) {
      case kRuleName:
        rule = reader.bytes(field);
        break;
      case kCharsmap:
        charsmap = reader.bytes(field);
        break;
      case kDummyPrefix:
        model.add_dummy_prefix = reader.boolean(field);
        break;
      case kRemoveExtraWhitespaces:
        model.remove_extra_whitespaces = reader.boolean(field);
        break;
      case kEscapeWhitespaces:
        model.escape_whitespaces = reader.boolean(field);
        break;
      default:
        break;
    }
  }
  refuse_charsmap(charsmap, rule);
}

void Parser::parse(std::string_view bytes) {
  WireReader reader(bytes, file_name);
  for (WireField field; reader.next(field);) {
    if (field.number == kPieces) parse_piece(reader.message(field));
    if (field.number == kTrainer) parse_trainer(reader.message(field));
    if (field.number == kNormalizer) parse_normalizer(reader.message(field));
    if (field.number == kDenormalizer) {
      WireReader inner = reader.message(field);
      for (WireField part; inner.next(part);)
        if (part.number == kCharsmap) refuse_charsmap(inner.bytes(part), "denormalizer");
    }
  }
  // Every writer of such models writes both; a file without them was cut off.
  if (!has_trainer || !has_normalizer)
    fail(
        cat("not a complete SentencePiece model: expected a trainer_spec and a normalizer_spec "
            "after the ",
            model.pieces.size(), " pieces, found ",
            has_trainer ? "no normalizer_spec" : "no trainer_spec"));
  if (model_type != kModelTypeBpe)
    fail(cat("model_type is ", model_type, model_type == kModelTypeUnigram ? " (unigram)" : "",
             ", expected 2 (BPE): only SentencePiece BPE models are supported"));
}

void Parser::check_pieces() {
  std::unordered_map<std::string_view, int64_t> seen;
  seen.reserve(model.pieces.size());
  const auto num_pieces = narrow<int64_t>(model.pieces.size());
  for (int64_t id = 0; id < num_pieces; ++id) {
    const Piece& piece = model.pieces[static_cast<size_t>(id)];
    if (find_invalid_utf8(piece.text)) fail(cat("piece ", id, " is not valid UTF-8"));
    const auto [other, is_new] = seen.emplace(piece.text, id);
    if (!is_new) fail(cat("pieces ", other->second, " and ", id, " are both '", piece.text, "'"));
    if (piece.type == PieceType::kUnknown) {
      if (model.unk_id >= 0) fail(cat("pieces ", model.unk_id, " and ", id, " are both UNKNOWN"));
      model.unk_id = id;
    }
    if (piece.type == PieceType::kByte) {
      const int byte = byte_of_piece(piece.text);
      if (byte < 0)
        fail(cat("piece ", id, " has type BYTE and the text '", piece.text, "', expected <0xHH>"));
      model.byte_ids[static_cast<size_t>(byte)] = narrow<int32_t>(id);
    }
  }
  if (model.unk_id < 0) fail(cat("none of the ", num_pieces, " pieces is the UNKNOWN one"));
  const auto control_id = [&](const std::string& name) -> int64_t {
    const auto found = seen.find(name);
    if (found == seen.end()) return -1;
    const bool control =
        model.pieces[static_cast<size_t>(found->second)].type == PieceType::kControl;
    return control ? found->second : -1;
  };
  model.bos_id = control_id(names.bos);
  model.eos_id = control_id(names.eos);
  model.pad_id = control_id(names.pad);
}

void Parser::check_byte_pieces() const {
  int num_bytes = 0;
  for (const Piece& piece : model.pieces) num_bytes += piece.type == PieceType::kByte ? 1 : 0;
  const int expected = model.byte_fallback ? 256 : 0;
  if (num_bytes != expected)
    fail(cat("byte_fallback is ", model.byte_fallback ? "true" : "false", ": expected ", expected,
             " pieces of type BYTE, found ", num_bytes));
}

}  // namespace

int byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  const size_t high = kDigits.find(piece[3]);
  const size_t low = kDigits.find(piece[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return -1;
  return static_cast<int>(16 * high + low);
}

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, std::string_view file_name) {
  Parser parser{.file_name = file_name, .model = {}, .names = {}};
  parser.parse(bytes);
  parser.check_pieces();
  parser.check_byte_pieces();
  return std::move(parser.model);
}

}  // namespace vax::data
