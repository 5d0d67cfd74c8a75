// Shared by the tests of src/data: temporary files, small SentencePiece models written byte by byte
// (so that damaged ones can be written too), and checks of error messages.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "data/sentencepiece_model.h"
#include "data/tokenizer.h"

namespace vax::data::test {

// A directory of its own for each object, removed with it.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  // Writes a file into it and returns its path.
  std::filesystem::path write(const std::string& name, std::string_view content) const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string gzip(std::string_view text);

// Protocol-buffer fields.
std::string wire_varint(uint64_t value);
std::string wire_field(uint32_t number, uint64_t value);          // varint
std::string wire_field(uint32_t number, std::string_view bytes);  // string, bytes, message
std::string wire_field(uint32_t number, float value);             // fixed32

// A model file in the making; defaults = Llama-2's settings.
struct ModelWriter {
  std::vector<Piece> pieces;
  uint64_t model_type = 2;  // BPE
  bool byte_fallback = true;
  bool treat_whitespace_as_suffix = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = false;
  std::string rule = "identity";
  std::string charsmap;

  // Appends NORMAL pieces, each with a lower score than those before it.
  void add_merges(std::initializer_list<std::string_view> texts);
  void add(std::string_view text, PieceType type);
  std::string bytes() const;
  SentencePieceModel parse() const;
  Tokenizer load() const;
};

std::string piece_bytes(const Piece& piece);

// <unk> <s> </s>, the 256 byte pieces (ids 3 to 258), then "▁", the letters a to e, and the merges
// "ab", "▁ab", "cd", "▁▁", "abcd" in this order of preference.
ModelWriter llama_like_model();
inline constexpr int64_t kFirstByteId = 3;
inline constexpr int64_t kSpaceId = 259;
inline constexpr int64_t kLetterA = 260;
inline constexpr int64_t kMergeAb = 265;
inline constexpr int64_t kMergeSpaceAb = 266;
inline constexpr int64_t kMergeCd = 267;
inline constexpr int64_t kMergeSpaces = 268;
inline constexpr int64_t kMergeAbcd = 269;

// Runs `body` and expects an Error whose message has every one of `parts`.
template <typename Error, typename Body>
void expect_error(const Body& body, std::initializer_list<std::string_view> parts) {
  try {
    body();
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    for (const std::string_view part : parts)
      EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos)
          << "expected '" << part << "' in: " << error.what();
  }
}

}  // namespace vax::data::test
