#include "eval/answers.h"

#include <gtest/gtest.h>

#include <set>

#include "../data/data_test_support.h"
#include "base/error.h"
#include "eval/evaluate.h"
#include "scripted_model.h"
#include "thread_collectives.h"

namespace vax::eval {
namespace {

using data::test::expect_error;
using data::test::TemporaryDirectory;
using testing::ScriptedModel;
using testing::SingleRank;

// a -> b -> c -> end; d -> e for ever; f ends at once.
const std::map<char, char> kArrows = {{'a', 'b'}, {'b', 'c'}, {'d', 'e'}, {'e', 'e'}};

constexpr const char* kFivePrompts =
    R"([{"instruction": "a"}, {"instruction": "d"}, {"instruction": "f"},
        {"instruction": "x", "input": "b"}, {"instruction": "f a"}])";

TEST(Answers, FollowTheModelUntilEosOrTheLimit) {
  const TemporaryDirectory directory;
  const ScriptedModel model(kArrows);
  SingleRank rank(model);
  rank.eval.max_new_tokens = 4;
  rank.eval.batch = 2;
  const EvalInputs inputs = rank.inputs();
  const PromptSet set =
      load_prompts(inputs, {.name = "test", .path = directory.write("prompts.json", kFivePrompts)});
  const std::vector<std::string> expected = {"b c", "e e e e", "", "c", "b c"};
  EXPECT_EQ(answer_prompts(inputs, set), expected);
}

TEST(Answers, EqualOnAnyNumberOfRanksInStep) {
  const TemporaryDirectory directory;
  const ScriptedModel model(kArrows);
  const auto path = directory.write("prompts.json", kFivePrompts);
  const std::vector<std::string> expected = {"b c", "e e e e", "", "c", "b c"};
  // 5 rows in batches of 2: rank counts that divide, that do not, and more ranks than rows.
  for (const int num_ranks : {2, 3, 4, 7}) {
    std::vector<std::vector<int>> acquired(static_cast<size_t>(num_ranks));
    testing::run_ranks(num_ranks, [&](dist::Collectives& world) {
      SingleRank rank(model);
      rank.eval.max_new_tokens = 4;
      rank.eval.batch = 2;
      const EvalInputs inputs{.model = model.llama(),
                              .weights = *rank.weights,
                              .tokenizer = model.tokenizer(),
                              .eval = rank.eval,
                              .data = rank.data,
                              .world = world,
                              .begin_pass = {},
                              .on_progress = {}};
      const PromptSet set = load_prompts(inputs, {.name = "test", .path = path});
      EXPECT_EQ(answer_prompts(inputs, set), expected) << world.rank() << " of " << num_ranks;
      acquired[static_cast<size_t>(world.rank())] = rank.weights->acquired();
    });
    for (const std::vector<int>& units : acquired)
      EXPECT_EQ(units, acquired.front()) << num_ranks << " ranks: gathers would not meet";
  }
}

TEST(Answers, ReportProgressOverAllRows) {
  const TemporaryDirectory directory;
  const ScriptedModel model(kArrows);
  SingleRank rank(model);
  rank.eval.max_new_tokens = 1;
  rank.eval.batch = 2;
  EvalInputs inputs = rank.inputs();
  std::vector<int64_t> done;
  int num_passes = 0;
  inputs.begin_pass = [&] { ++num_passes; };
  inputs.on_progress = [&](const EvalProgress& progress) {
    EXPECT_EQ(progress.part, "test");
    EXPECT_EQ(progress.total, 5);
    done.push_back(progress.done);
  };
  answer_prompts(inputs, load_prompts(inputs, {.name = "test",
                                               .path = directory.write("p.json", kFivePrompts)}));
  EXPECT_EQ(done, (std::vector<int64_t>{2, 4, 5}));
  EXPECT_EQ(num_passes, 3);
}

TEST(Answers, SliceOfAFile) {
  const TemporaryDirectory directory;
  const ScriptedModel model(kArrows);
  SingleRank rank(model);
  rank.data.path = directory.write("prompts.json", kFivePrompts).string();
  rank.data.skip = 3;
  rank.data.samples = 1;
  const std::vector<Answer> answers = generate_answers(rank.inputs());
  ASSERT_EQ(answers.size(), 1U);
  EXPECT_EQ(answers[0].row, 3);
  EXPECT_EQ(answers[0].instruction, "x");
  EXPECT_EQ(answers[0].input, "b");
  EXPECT_EQ(answers[0].output, "c");
  EXPECT_EQ(answers[0].set, "");
  EXPECT_FALSE(answers[0].harmful.has_value());

  rank.data.samples = 100;
  EXPECT_EQ(generate_answers(rank.inputs()).size(), 2U);
  rank.data.skip = 5;
  expect_error<DataError>([&] { generate_answers(rank.inputs()); },
                          {"prompts.json", "expected at least 6 rows", "found 5"});
}

TEST(Answers, PromptsThatDoNotFitNameFileAndRow) {
  static_assert(testing::kMaxPositions == 12);
  const TemporaryDirectory directory;
  const ScriptedModel model(kArrows);
  SingleRank rank(model);
  // bos + 10 words leave one place, bos + 11 words none.
  rank.data.path = directory.write("fits.json", R"([{"instruction": "a a a a a a a a a d"}])");
  EXPECT_EQ(generate_answers(rank.inputs())[0].output, "e");
  rank.data.path = directory.write(
      "long.json", R"([{"instruction": "a"}, {"instruction": "a a a a a a a a a a a"}])");
  expect_error<DataError>([&] { generate_answers(rank.inputs()); },
                          {"long.json: row 1", "at most 11 ids", "found 12"});
}

}  // namespace
}  // namespace vax::eval
