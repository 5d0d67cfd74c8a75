// The tokenizer.model reader against files that are damaged, hostile, or of a kind that is not
// supported: always a DataError that names the file, never a crash, never a half-read model.
#include "data/sentencepiece_model.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"
#include "base/philox.h"
#include "data/wire_format.h"
#include "data_test_support.h"

namespace vax::data {
namespace {

using test::expect_error;
using test::llama_like_model;
using test::ModelWriter;
using test::piece_bytes;
using test::wire_field;
using test::wire_varint;

void expect_refused(const ModelWriter& writer, std::initializer_list<std::string_view> parts) {
  expect_error<DataError>([&] { writer.parse(); }, parts);
}

TEST(SentencePieceModel, ReadsWhatWasWritten) {
  ModelWriter writer = llama_like_model();
  writer.remove_extra_whitespaces = true;
  writer.add_dummy_prefix = false;
  const SentencePieceModel model = writer.parse();
  ASSERT_EQ(model.pieces.size(), writer.pieces.size());
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    EXPECT_EQ(model.pieces[i].text, writer.pieces[i].text);
    EXPECT_EQ(model.pieces[i].score, writer.pieces[i].score);
    EXPECT_EQ(model.pieces[i].type, writer.pieces[i].type);
  }
  EXPECT_TRUE(model.byte_fallback);
  EXPECT_TRUE(model.remove_extra_whitespaces);
  EXPECT_FALSE(model.add_dummy_prefix);
  EXPECT_TRUE(model.escape_whitespaces);
  EXPECT_EQ(model.byte_ids[0xFF], test::kFirstByteId + 0xFF);
}

TEST(SentencePieceModel, TruncatedAtEveryByteIsRefused) {
  ModelWriter writer;
  writer.byte_fallback = false;
  writer.add("<unk>", PieceType::kUnknown);
  writer.add("<s>", PieceType::kControl);
  writer.add_merges({"▁", "a", "▁a"});
  const std::string whole = writer.bytes();
  ASSERT_NO_THROW(parse_sentencepiece_model(whole, "whole"));
  for (size_t length = 0; length < whole.size(); ++length)
    expect_error<DataError>(
        [&] { parse_sentencepiece_model(whole.substr(0, length), "cut.model"); }, {"cut.model"});
}

TEST(SentencePieceModel, FlippedBitsNeverCrash) {
  ModelWriter writer = llama_like_model();
  writer.add("foo", PieceType::kUserDefined);
  const std::string whole = writer.bytes();
  int num_refused = 0;
  constexpr int kTrials = 3000;
  for (uint32_t trial = 0; trial < kTrials; ++trial) {
    std::string damaged = whole;
    const auto draw = philox4x32({trial, 0, 0, 0}, {1, 2});
    for (int flip = 0; flip < 3; ++flip)
      damaged[draw[flip] % damaged.size()] ^= static_cast<char>(1u << (draw[3] >> (8 * flip)) % 8);
    try {
      const SentencePieceModel model = parse_sentencepiece_model(damaged, "damaged");
      std::vector<int64_t> ids;
      BpeEncoder(model).encode("foo ab  abcd\xC3\xA9 e", ids);
      for (const int64_t id : ids) ASSERT_LT(id, static_cast<int64_t>(model.pieces.size()));
    } catch (const DataError&) {
      ++num_refused;
    }
  }
  // Most flips hit a length, a tag or a byte piece; a changed letter or score is a valid file.
  EXPECT_GT(num_refused, kTrials / 4);
}

TEST(SentencePieceModel, RefusesOtherAlgorithms) {
  ModelWriter writer = llama_like_model();
  writer.model_type = 1;
  expect_refused(writer, {"test.model", "model_type is 1 (unigram)", "expected 2 (BPE)"});
  writer.model_type = 4;
  expect_refused(writer, {"model_type is 4", "expected 2 (BPE)"});
}

TEST(SentencePieceModel, RefusesNormalisation) {
  ModelWriter writer = llama_like_model();
  writer.rule = "nmt_nfkc";
  writer.charsmap = std::string(100, 'x');
  expect_refused(writer, {"nmt_nfkc", "100 bytes", "identity"});
  const std::string denormalizing =
      llama_like_model().bytes() + wire_field(5, wire_field(2, std::string_view("map")));
  expect_error<DataError>([&] { parse_sentencepiece_model(denormalizing, "m"); },
                          {"denormalizer", "3 bytes"});
  // An empty denormaliser is what some versions of the trainer write.
  const std::string empty = llama_like_model().bytes() + wire_field(5, std::string_view());
  EXPECT_NO_THROW(parse_sentencepiece_model(empty, "m"));
}

TEST(SentencePieceModel, RefusesBadPieces) {
  ModelWriter writer = llama_like_model();
  writer.add("ab", PieceType::kNormal);
  expect_refused(writer, {"pieces 265 and 270 are both 'ab'"});
  writer.pieces.back().text = "";
  expect_refused(writer, {"piece 270 is empty"});
  writer.pieces.back().text = "\xC3";
  expect_refused(writer, {"piece 270 is not valid UTF-8"});
  writer.pieces.back() = {.text = "<unk2>", .score = 0, .type = PieceType::kUnknown};
  expect_refused(writer, {"pieces 0 and 270 are both UNKNOWN"});
  writer.pieces.back() = {.text = "<0xZZ>", .score = 0, .type = PieceType::kByte};
  expect_refused(writer, {"piece 270", "'<0xZZ>'", "expected <0xHH>"});
  writer.pieces.back() = {.text = "x", .score = 0, .type = static_cast<PieceType>(7)};
  expect_refused(writer, {"piece 270 has type 7"});
  for (const float score :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    writer.pieces.back() = {.text = "x", .score = score, .type = PieceType::kNormal};
    expect_refused(writer, {"is not finite"});
  }
}

// Matching pieces of any length at every position would take a time that grows with its square.
TEST(SentencePieceModel, LimitsTheLengthOfTexts) {
  ModelWriter writer = llama_like_model();
  const size_t id = writer.pieces.size();
  writer.add(std::string(512, 'x'), PieceType::kUserDefined);
  EXPECT_NO_THROW(writer.parse());
  writer.pieces[id].text += 'x';
  expect_refused(writer, {cat("piece ", id), "513 bytes", "at most 512"});

  const std::string surface = wire_field(2, wire_field(44, std::string(513, 'x')));
  expect_error<DataError>(
      [&] { parse_sentencepiece_model(llama_like_model().bytes() + surface, "x"); },
      {"unk_surface", "513 bytes"});
}

TEST(SentencePieceModel, RefusesAVocabularyWithoutUnknownOrWithoutBytes) {
  ModelWriter writer = llama_like_model();
  writer.pieces[0].type = PieceType::kNormal;
  expect_refused(writer, {"none of the 270 pieces is the UNKNOWN one"});
  writer = llama_like_model();
  writer.pieces.erase(writer.pieces.begin() + 100);
  expect_refused(writer, {"byte_fallback is true", "256", "found 255"});
  writer = llama_like_model();
  writer.byte_fallback = false;
  expect_refused(writer, {"byte_fallback is false", "expected 0", "found 256"});
}

TEST(SentencePieceModel, RefusesFilesThatAreSomethingElse) {
  for (const std::string_view bytes :
       {std::string_view(""), std::string_view("\n"), std::string_view("{\"model\": 1}"),
        std::string_view("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        std::string_view("\x1f\x8b\x08\x00\x00\x00", 6)})
    expect_error<DataError>([&] { parse_sentencepiece_model(bytes, "other.model"); },
                            {"other.model"});
}

TEST(WireReader, ChecksLengthsAgainstWhatIsLeft) {
  // A length near 2^64 must not wrap around.
  const std::string huge = wire_varint((1 << 3) | 2) + wire_varint(~uint64_t{0} - 4);
  WireField field;
  expect_error<DataError>([&] { WireReader(huge, "f").next(field); },
                          {"f: byte 11", "18446744073709551611", "found 0"});
  expect_error<DataError>([&] { WireReader(std::string("\x0D\x01", 2), "f").next(field); },
                          {"expected 4 more bytes, found 1"});
}

TEST(WireReader, RefusesLongVarintsAndBadTags) {
  WireField field;
  const std::string_view eleven = "\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01";
  expect_error<DataError>([&] { WireReader(eleven, "f").next(field); }, {"more than 64 bits"});
  const std::string_view overflow = "\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02";
  expect_error<DataError>([&] { WireReader(overflow, "f").next(field); }, {"more than 64 bits"});
  expect_error<DataError>([&] { WireReader("\x0B", "f").next(field); }, {"wire type 3"});
  expect_error<DataError>([&] { WireReader(std::string(1, '\0'), "f").next(field); },
                          {"not a field tag"});
  EXPECT_NO_THROW(WireReader(wire_field(1, ~uint64_t{0}), "f").next(field));
  EXPECT_EQ(field.value, ~uint64_t{0});
}

TEST(WireReader, ChecksTheTypeThatTheSchemaGives) {
  WireField field;
  const std::string bytes = wire_field(3, uint64_t{7});
  WireReader reader(bytes, "f");
  ASSERT_TRUE(reader.next(field));
  EXPECT_EQ(reader.unsigned_integer(field), 7u);
  expect_error<DataError>([&] { reader.bytes(field); }, {"field 3 has wire type 0, expected 2"});
  expect_error<DataError>([&] { reader.number(field); }, {"field 3 has wire type 0, expected 5"});
  EXPECT_FALSE(reader.next(field));
}

TEST(WireReader, ErrorsInMessagesCountFromTheStartOfTheFile) {
  const std::string inner = wire_varint((1 << 3) | 2) + wire_varint(100);
  const std::string file = wire_field(9, uint64_t{1}) + wire_field(2, inner);
  WireReader reader(file, "f");
  WireField field;
  ASSERT_TRUE(reader.next(field));
  ASSERT_TRUE(reader.next(field));
  expect_error<DataError>([&] { reader.message(field).next(field); }, {"f: byte 6"});
}

TEST(SentencePieceModel, LastOccurrenceOfAFieldCounts) {
  // As protocol buffers define it: files may be concatenated.
  const std::string more = wire_field(3, wire_field(3, uint64_t{0}));
  EXPECT_FALSE(parse_sentencepiece_model(llama_like_model().bytes() + more, "m").add_dummy_prefix);
}

TEST(SentencePieceModel, BytePieces) {
  EXPECT_EQ(byte_of_piece("<0x00>"), 0);
  EXPECT_EQ(byte_of_piece("<0xFF>"), 255);
  for (const std::string_view text : {"<0xff>", "<0x0>", "<0x000>", "0x00", "<0x0G>", ""})
    EXPECT_EQ(byte_of_piece(text), -1) << text;
}

}  // namespace
}  // namespace vax::data
