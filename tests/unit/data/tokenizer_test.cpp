// Encoding and decoding on a vocabulary small enough to follow by hand. That the ids equal the
// SentencePiece library's on real models is tests/parity/tokenizer_parity.py's subject.
#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include <utility>

#include "base/error.h"
#include "data_test_support.h"

namespace vax::data {
namespace {

using test::expect_error;
using test::kFirstByteId;
using test::kLetterA;
using test::kMergeAb;
using test::kMergeAbcd;
using test::kMergeCd;
using test::kMergeSpaceAb;
using test::kMergeSpaces;
using test::kSpaceId;
using test::llama_like_model;
using test::ModelWriter;
using Ids = std::vector<int64_t>;

Ids byte_ids(std::string_view bytes) {
  Ids ids;
  for (const char c : bytes) ids.push_back(kFirstByteId + static_cast<unsigned char>(c));
  return ids;
}

Ids join(const Ids& a, const Ids& b) {
  Ids ids = a;
  ids.insert(ids.end(), b.begin(), b.end());
  return ids;
}

TEST(Tokenizer, MergesByScoreThenLeftmost) {
  const Tokenizer tokenizer = llama_like_model().load();
  EXPECT_EQ(tokenizer.encode("ab"), Ids({kMergeSpaceAb}));
  // "▁ab" is preferred to "abcd", which would need "ab" without its space.
  EXPECT_EQ(tokenizer.encode("abcd"), Ids({kMergeSpaceAb, kMergeCd}));
  EXPECT_EQ(tokenizer.encode("eabcd"), Ids({kSpaceId, kLetterA + 4, kMergeAbcd}));
  // Three spaces (one of them the dummy prefix): the left pair joins, the last one is left to "ab".
  EXPECT_EQ(tokenizer.encode("  ab"), Ids({kMergeSpaces, kMergeSpaceAb}));
}

TEST(Tokenizer, EmptyTextHasNoIds) {
  const Tokenizer tokenizer = llama_like_model().load();
  EXPECT_TRUE(tokenizer.encode("").empty());
  EXPECT_TRUE(tokenizer.encode("", true).empty());
  EXPECT_EQ(tokenizer.decode(Ids()), "");
}

TEST(Tokenizer, UnknownCharactersBecomeBytesAndComeBack) {
  const Tokenizer tokenizer = llama_like_model().load();
  EXPECT_EQ(tokenizer.encode("é\n"), join({kSpaceId}, byte_ids("é\n")));
  for (const std::string_view text : {"é\n", "a  b", " ab ", "🙂abcd", "\x01", "a\tb\r\n"})
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST(Tokenizer, WithoutByteFallbackARunOfUnknownsIsOneId) {
  ModelWriter writer;
  writer.byte_fallback = false;
  writer.add("<unk>", PieceType::kUnknown);
  writer.add("<s>", PieceType::kControl);
  writer.add_merges({"a"});
  const Tokenizer tokenizer = writer.load();
  EXPECT_EQ(tokenizer.encode("xyza z"), Ids({0, 2, 0}));  // "▁xyz" "a" "▁z"
  EXPECT_EQ(tokenizer.decode(Ids({2, 0})), "a \xE2\x81\x87 ");
}

TEST(Tokenizer, InvalidUtf8BecomesReplacementCharactersBytewise) {
  const Tokenizer tokenizer = llama_like_model().load();
  const Ids replaced = byte_ids("\xEF\xBF\xBD");
  EXPECT_EQ(tokenizer.encode("\xFF"), join({kSpaceId}, replaced));
  EXPECT_EQ(tokenizer.encode("\xE4\xB8"), join({kSpaceId}, join(replaced, replaced)));
  EXPECT_EQ(tokenizer.encode("\xC0\x80"), join({kSpaceId}, join(replaced, replaced)));
}

TEST(Tokenizer, ByteIdsThatAreNoUtf8DecodeToReplacementCharacters) {
  const Tokenizer tokenizer = llama_like_model().load();
  EXPECT_EQ(tokenizer.decode(byte_ids("\xE4\xB8")), "\uFFFD\uFFFD");
  EXPECT_EQ(tokenizer.decode(join(byte_ids("\xE4\xB8\xAD\xFF"), {kLetterA})), "中\uFFFDa");
  // A character whose bytes are torn apart by another piece is not joined.
  EXPECT_EQ(tokenizer.decode(join(byte_ids("\xC3"), join({kLetterA}, byte_ids("\xA9")))),
            "\uFFFDa\uFFFD");
}

TEST(Tokenizer, DecodingDropsControlIdsAndOneLeadingSpace) {
  const Tokenizer tokenizer = llama_like_model().load();
  EXPECT_EQ(tokenizer.decode(Ids({1, kMergeSpaceAb, 2})), "ab");
  EXPECT_EQ(tokenizer.decode(Ids({kSpaceId, kSpaceId, kLetterA})), " a");
  EXPECT_EQ(tokenizer.decode(Ids({kMergeSpaces, kLetterA})), " a");
  EXPECT_EQ(tokenizer.decode(Ids({kLetterA, kMergeSpaceAb})), "a ab");
}

TEST(Tokenizer, RefusesIdsOutsideTheVocabulary) {
  const Tokenizer tokenizer = llama_like_model().load();
  EXPECT_EQ(tokenizer.vocab_size(), 270);
  expect_error<DataError>([&] { tokenizer.decode(Ids({270})); }, {"270", "0 to 269"});
  expect_error<DataError>([&] { tokenizer.decode(Ids({-1})); }, {"-1", "0 to 269"});
}

TEST(Tokenizer, ControlTokensInATextStayText) {
  const Tokenizer tokenizer = llama_like_model().load();
  for (const std::string_view text : {"</s>", "a<s>b", "<unk>", "<0x41>"}) {
    const Ids ids = tokenizer.encode(text);
    for (const int64_t id : ids) EXPECT_GT(id, 2) << text;
    EXPECT_EQ(tokenizer.decode(ids), text);
  }
}

TEST(Tokenizer, ParsedSpecialTokensSplitTheTextAndEveryPartHasItsOwnPrefix) {
  const Tokenizer tokenizer = llama_like_model().load();
  EXPECT_EQ(tokenizer.encode("ab</s>ab", true), Ids({kMergeSpaceAb, 2, kMergeSpaceAb}));
  // White space beside a special token is kept, on both sides.
  EXPECT_EQ(tokenizer.encode("a <s> a", true),
            Ids({kSpaceId, kLetterA, kSpaceId, 1, kMergeSpaces, kLetterA}));
  EXPECT_EQ(tokenizer.encode("<s><unk></s>", true), Ids({1, 0, 2}));
  EXPECT_EQ(tokenizer.encode("</s", true), tokenizer.encode("</s"));
}

TEST(Tokenizer, UserDefinedPiecesAreCutOutFirstLongestFirst) {
  ModelWriter writer = llama_like_model();
  writer.add("bc", PieceType::kUserDefined);    // 270
  writer.add("bcda", PieceType::kUserDefined);  // 271
  const Tokenizer tokenizer = writer.load();
  EXPECT_EQ(tokenizer.encode("abcd"), Ids({kSpaceId, kLetterA, 270, kLetterA + 3}));
  EXPECT_EQ(tokenizer.encode("abcdab"), Ids({kSpaceId, kLetterA, 271, kLetterA + 1}));
}

TEST(Tokenizer, UserDefinedPiecesNeverMerge) {
  ModelWriter writer = llama_like_model();
  writer.add("bc", PieceType::kUserDefined);  // 270
  writer.add_merges({"bcd", "▁abc"});         // would take "bc" in from either side
  EXPECT_EQ(writer.load().encode("bcd"), Ids({kSpaceId, 270, kLetterA + 3}));
  EXPECT_EQ(writer.load().encode("abc"), Ids({kSpaceId, kLetterA, 270}));
}

TEST(Tokenizer, AnUnusedPieceFallsApartIntoWhatItWasMergedFrom) {
  ModelWriter writer = llama_like_model();
  writer.pieces[kMergeAbcd].type = PieceType::kUnused;
  EXPECT_EQ(writer.load().encode("eabcd"), Ids({kSpaceId, kLetterA + 4, kMergeAb, kMergeCd}));
  writer.pieces[kMergeCd].type = PieceType::kUnused;
  EXPECT_EQ(writer.load().encode("eabcd"),
            Ids({kSpaceId, kLetterA + 4, kMergeAb, kLetterA + 2, kLetterA + 3}));
}

TEST(Tokenizer, ExtraWhitespaceIsRemovedWhereTheModelSaysSo) {
  ModelWriter writer = llama_like_model();
  writer.remove_extra_whitespaces = true;
  const Tokenizer tokenizer = writer.load();
  EXPECT_EQ(tokenizer.encode("  ab   ab  "), Ids({kMergeSpaceAb, kMergeSpaceAb}));
  EXPECT_TRUE(tokenizer.encode("   ").empty());
  // Only U+0020 is white space to the identity rule.
  EXPECT_EQ(tokenizer.encode("\n\n"), join({kSpaceId}, byte_ids("\n\n")));
}

TEST(Tokenizer, DummyPrefixCanBeAbsentOrASuffix) {
  ModelWriter writer = llama_like_model();
  writer.add_dummy_prefix = false;
  EXPECT_EQ(writer.load().encode("ab"), Ids({kMergeAb}));
  EXPECT_EQ(writer.load().decode(Ids({kMergeSpaceAb})), " ab");
  writer.add_dummy_prefix = true;
  writer.treat_whitespace_as_suffix = true;
  EXPECT_EQ(writer.load().encode("ab"), Ids({kMergeAb, kSpaceId}));
}

TEST(Tokenizer, PiecesThatReachOverWordsMergeToo) {
  ModelWriter writer = llama_like_model();
  writer.add_merges({"d▁", "d▁e"});  // 270, 271
  EXPECT_EQ(writer.load().encode("d e"), Ids({kSpaceId, 271}));
}

TEST(Tokenizer, CostOfOneLongWordIsNotQuadratic) {
  // 400,000 merges; quadratic work would be 10^11 operations and run into the test's time limit.
  const Tokenizer tokenizer = llama_like_model().load();
  std::string text;
  for (int i = 0; i < 200000; ++i) text += "abcd";
  const Ids ids = tokenizer.encode(text);
  EXPECT_EQ(ids.size(), 200001u);
  EXPECT_EQ(tokenizer.decode(ids), text);
}

TEST(Tokenizer, SpecialIdsAreThoseOfTheControlPieces) {
  ModelWriter writer = llama_like_model();
  EXPECT_EQ(writer.load().bos_id(), 1);
  EXPECT_EQ(writer.load().eos_id(), 2);
  EXPECT_EQ(writer.load().unk_id(), 0);
  EXPECT_EQ(writer.load().pad_id(), -1);
  writer.add("<pad>", PieceType::kControl);
  writer.pieces[2].type = PieceType::kNormal;  // a piece that only looks like the end
  EXPECT_EQ(writer.load().pad_id(), 270);
  EXPECT_EQ(writer.load().eos_id(), -1);
}

TEST(Tokenizer, MovingKeepsTheEncoderValid) {
  Tokenizer first = llama_like_model().load();
  const Tokenizer second = std::move(first);
  EXPECT_EQ(second.encode("abcd"), Ids({kMergeSpaceAb, kMergeCd}));
}

TEST(TokenizerDirectory, ReadsModelAndConfiguration) {
  const test::TemporaryDirectory directory;
  directory.write("tokenizer.model", llama_like_model().bytes());
  EXPECT_TRUE(Tokenizer::load(directory.path()).add_bos());
  directory.write("tokenizer_config.json", R"({"add_bos_token": false, "legacy": true})");
  EXPECT_FALSE(Tokenizer::load(directory.path()).add_bos());
  directory.write("tokenizer_config.json", R"({"add_bos_token": null})");
  EXPECT_TRUE(Tokenizer::load(directory.path()).add_bos());
}

TEST(TokenizerDirectory, AddedSpecialTokensExtendTheVocabulary) {
  const test::TemporaryDirectory directory;
  directory.write("tokenizer.model", llama_like_model().bytes());
  directory.write("tokenizer_config.json", R"({"added_tokens_decoder": {
      "1": {"content": "<s>", "special": true},
      "260": {"content": "a", "special": false},
      "270": {"content": "[PAD]", "special": true}}})");
  const Tokenizer tokenizer = Tokenizer::load(directory.path());
  EXPECT_EQ(tokenizer.vocab_size(), 271);
  EXPECT_EQ(tokenizer.encode("[PAD]ab<s>", true), Ids({270, kMergeSpaceAb, 1}));
  EXPECT_NE(tokenizer.encode("[PAD]"), Ids({270}));
  EXPECT_EQ(tokenizer.decode(Ids({270, kMergeSpaceAb})), "ab");
}

TEST(TokenizerDirectory, NamesWhatIsWrong) {
  const test::TemporaryDirectory directory;
  const auto load = [&] { Tokenizer::load(directory.path()); };
  expect_error<DataError>([&] { Tokenizer::load(directory.path() / "absent"); },
                          {"absent", "nothing there"});
  expect_error<DataError>(load, {"expected a SentencePiece tokenizer.model", "found none"});
  directory.write("tokenizer.json", "{}");
  expect_error<DataError>(load, {"tokenizer.json", "not read"});
  directory.write("tokenizer.model", llama_like_model().bytes());
  const std::pair<const char*, const char*> cases[] = {
      {"{", "not valid JSON"},
      {"[]", "expected a JSON object"},
      {R"({"add_bos_token": 1})", "add_bos_token: expected true or false"},
      {R"({"added_tokens_decoder": []})", "expected an object"},
      {R"({"added_tokens_decoder": {"x": {}}})", "expected ids as keys, found 'x'"},
      {R"({"added_tokens_decoder": {"-3": {}}})", "expected ids as keys"},
      {R"({"added_tokens_decoder": {"5": {"content": 3}}})", "[5]: expected"},
      {R"({"added_tokens_decoder": {"5": {"content": ""}}})", "is empty"},
      {R"({"added_tokens_decoder": {"1": {"content": "<t>", "special": true}}})", "which is '<s>'"},
      {R"({"added_tokens_decoder": {"300": {"content": "<s>", "special": true}}})", "expected 1"},
      {R"({"added_tokens_decoder": {"9999999999": {"content": "<t>", "special": true}}})",
       "expected less than"}};
  for (const auto& [text, part] : cases) {
    directory.write("tokenizer_config.json", text);
    expect_error<DataError>(load, {"tokenizer_config.json", part});
  }
}

TEST(TokenizerDirectory, AModelWithoutBeginOfSequenceNeedsAConfigurationThatSaysSo) {
  ModelWriter writer = llama_like_model();
  writer.pieces[1].type = PieceType::kNormal;
  const test::TemporaryDirectory directory;
  directory.write("tokenizer.model", writer.bytes());
  expect_error<DataError>([&] { Tokenizer::load(directory.path()); }, {"begin-of-sequence"});
  directory.write("tokenizer_config.json", R"({"add_bos_token": false})");
  EXPECT_EQ(Tokenizer::load(directory.path()).bos_id(), -1);
}

}  // namespace
}  // namespace vax::data
