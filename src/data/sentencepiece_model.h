// The contents of a SentencePiece `tokenizer.model` (protocol buffer ModelProto), as far as BPE
// needs them: vocabulary, special pieces, white-space rules. The file is treated as hostile: after
// parse_sentencepiece_model() every piece is non-empty valid UTF-8 of at most 512 bytes, no piece
// stands twice, there is exactly one UNKNOWN piece, scores are finite and byte_fallback has all 256
// byte pieces.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vax::data {

inline constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581, an escaped space

// Numbers as in the file.
enum class PieceType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct Piece {
  std::string text;
  float score = 0;
  PieceType type = PieceType::kNormal;
};

struct SentencePieceModel {
  std::vector<Piece> pieces;  // index = id

  // trainer_spec
  bool byte_fallback = false;
  bool treat_whitespace_as_suffix = false;
  std::string unk_surface = " \xE2\x81\x87 ";  // what an unknown id decodes to

  // normalizer_spec
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;

  // Ids of the special pieces; -1 = the model has none. As in SentencePiece they are found by the
  // piece's name, and only a CONTROL piece counts for bos, eos and pad.
  int64_t unk_id = -1;
  int64_t bos_id = -1;
  int64_t eos_id = -1;
  int64_t pad_id = -1;

  std::array<int32_t, 256> byte_ids{};  // id of each byte's piece; only with byte_fallback
};

// THROWS DataError (file, byte offset or piece, expected, found) when the bytes are no such model,
// and when the model is not BPE or has normalisation rules other than `identity`.
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, std::string_view file_name);

// The byte that a BYTE piece of the form <0xHH> (upper-case digits) stands for; -1 for other texts.
int byte_of_piece(std::string_view piece);

}  // namespace vax::data
