// Samples: where labels begin, what a cut loses, and that prompt and answer are one text.
#include "data/sample.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "data_test_support.h"

namespace vax::data {
namespace {

using test::kLetterA;
using test::kMergeAb;
using test::kMergeAbcd;
using test::kMergeCd;
using test::kMergeSpaceAb;
using test::kSpaceId;
using test::llama_like_model;
using Ids = std::vector<int64_t>;

Record make_record(std::string instruction, std::string output) {
  Record record;
  record.instruction = std::move(instruction);
  record.output = std::move(output);
  return record;
}

class SampleTest : public ::testing::Test {
 protected:
  Sample make(const Record& record, const SampleOptions& options = {}) const {
    return make_sample(tokenizer_, plain_, record, options);
  }
  Tokenizer tokenizer_ = llama_like_model().load();
  PromptTemplate plain_ = PromptTemplate::named("plain");
};

TEST_F(SampleTest, HasBosPromptAnswerAndEos) {
  const Sample sample = make(make_record("ab", "ab"));
  EXPECT_EQ(sample.ids, Ids({1, kMergeSpaceAb, kMergeSpaceAb, 2}));
  EXPECT_EQ(sample.label_begin, 2);
  EXPECT_EQ(sample.num_labels(), 2);  // the answer and eos
  EXPECT_FALSE(sample.cut);
}

TEST_F(SampleTest, PromptAndAnswerAreTokenisedAsOneText) {
  // A template that joins them directly: "e" + "abcd" is one text, so "abcd" is one piece without a
  // dummy prefix of its own; and "eab" + "cd" merges across the border.
  const test::TemporaryDirectory directory;
  const auto joined =
      PromptTemplate::named(directory.write("t", "{instruction}{response}").string());
  const Sample sample = make_sample(tokenizer_, joined, make_record("e", "abcd"), {});
  EXPECT_EQ(sample.ids, Ids({1, kSpaceId, kLetterA + 4, kMergeAbcd, 2}));
  EXPECT_EQ(sample.label_begin, 3);
  const Sample across = make_sample(tokenizer_, joined, make_record("eab", "cd"), {});
  EXPECT_EQ(across.ids, Ids({1, kSpaceId, kLetterA + 4, kMergeAbcd, 2}));
  // As many ids as the prompt alone has: <s> ▁ e ab.
  EXPECT_EQ(across.label_begin, 4);
  EXPECT_EQ(across.num_labels(), 1);
}

TEST_F(SampleTest, IsCutToTheFirstIds) {
  const Record record = make_record("ab", "ab cd");  // 1 ▁ab ▁ab ▁ cd 2
  const Ids whole{1, kMergeSpaceAb, kMergeSpaceAb, kSpaceId, kMergeCd, 2};
  for (int64_t length = 1; length <= 8; ++length) {
    const Sample sample = make(record, {.max_length = length});
    const auto kept = std::min<int64_t>(length, 6);
    EXPECT_EQ(sample.ids, Ids(whole.begin(), whole.begin() + kept));
    EXPECT_EQ(sample.cut, length < 6) << length;
    EXPECT_EQ(sample.label_begin, 2);
    EXPECT_EQ(sample.num_labels(), std::max<int64_t>(0, kept - 2));
  }
}

TEST_F(SampleTest, TextRowsAreLabelsExceptTheFirstId) {
  Record record;
  record.text = "ab cd";
  const Sample sample = make(record, {.format = RecordFormat::kText});
  EXPECT_EQ(sample.ids, Ids({1, kMergeSpaceAb, kSpaceId, kMergeCd, 2}));
  EXPECT_EQ(sample.label_begin, 1);
  EXPECT_EQ(sample.num_labels(), 4);
  EXPECT_EQ(make(record, {.format = RecordFormat::kText, .max_length = 1}).num_labels(), 0);
}

TEST_F(SampleTest, SpecialTokensInARowAreTextUnlessAskedFor) {
  const Record record = make_record("ab</s>ab", "ab");
  EXPECT_EQ(std::ranges::count(make(record).ids, 2), 1);
  const Sample parsed = make(record, {.parse_special = true});
  EXPECT_EQ(parsed.ids, Ids({1, kMergeSpaceAb, 2, kMergeSpaceAb, kMergeSpaceAb, 2}));
  EXPECT_EQ(parsed.label_begin, 4);
}

TEST_F(SampleTest, BosFollowsTheConfiguration) {
  const test::TemporaryDirectory directory;
  directory.write("tokenizer.model", llama_like_model().bytes());
  directory.write("tokenizer_config.json", R"({"add_bos_token": false})");
  const Tokenizer bare = Tokenizer::load(directory.path());
  const Sample sample = make_sample(bare, plain_, make_record("ab", "ab"), {});
  EXPECT_EQ(sample.ids, Ids({kMergeSpaceAb, kMergeSpaceAb, 2}));
  EXPECT_EQ(sample.label_begin, 1);
}

TEST_F(SampleTest, NothingPredictsTheFirstIdEvenWithoutAPrompt) {
  const test::TemporaryDirectory directory;
  directory.write("tokenizer.model", llama_like_model().bytes());
  directory.write("tokenizer_config.json", R"({"add_bos_token": false})");
  const Tokenizer bare = Tokenizer::load(directory.path());
  const auto answer_only =
      PromptTemplate::named(directory.write("t", "{response}{instruction}").string());
  EXPECT_EQ(make_sample(bare, answer_only, make_record("ab", "ab"), {}).label_begin, 1);
}

TEST_F(SampleTest, PromptForGenerationIsThePromptOfTheSample) {
  const Record record = make_record("ab cd", "ab");
  const Ids prompt = make_prompt(tokenizer_, plain_, record, {.max_length = 2});
  EXPECT_EQ(prompt, Ids({1, kMergeSpaceAb, kSpaceId, kMergeCd}));
  EXPECT_EQ(make(record).label_begin, 4);
}

TEST_F(SampleTest, NeedsAnEndOfSequencePiece) {
  auto writer = llama_like_model();
  writer.pieces[2].type = PieceType::kNormal;
  const Tokenizer tokenizer = writer.load();
  test::expect_error<DataError>(
      [&] { make_sample(tokenizer, plain_, make_record("ab", "ab"), {}); }, {"end-of-sequence"});
}

}  // namespace
}  // namespace vax::data
