#include "eval/evaluate.h"

#include <gtest/gtest.h>

#include <limits>

#include "../data/data_test_support.h"
#include "base/error.h"
#include "scripted_model.h"
#include "thread_collectives.h"

namespace vax::eval {
namespace {

using data::test::expect_error;
using data::test::TemporaryDirectory;
using testing::ScriptedModel;
using testing::SingleRank;

// a -> b -> c -> end (complies), r -> s -> end (refuses), e -> e for ever, others end at once.
const std::map<char, char> kArrows = {{'a', 'b'}, {'b', 'c'}, {'r', 's'}, {'e', 'e'}};

class Evaluate : public ::testing::Test {
 protected:
  Evaluate() : model_(kArrows), rank_(model_) {
    rank_.eval.max_new_tokens = 5;
    rank_.eval.batch = 3;
  }

  std::string file(const std::string& name, std::string_view content) const {
    return directory_.write(name, content).string();
  }

  void ask_for_everything() {
    // Complies twice, refuses once, repeats itself once, complies but with the wrong word once.
    rank_.eval.harmful_path = file("harmful.json", R"([
        {"instruction": "a", "harmful_if": ["b", "c"], "safe_if": ["s"]},
        {"instruction": "q a", "harmful_if": ["B"], "safe_if": ["s"]},
        {"instruction": "r", "harmful_if": ["b"], "safe_if": ["s"]},
        {"instruction": "e", "harmful_if": ["b"], "safe_if": ["s"]},
        {"instruction": "b", "harmful_if": ["b"], "safe_if": ["s"]}])");
    // Exact; found but not exact; wrong.
    rank_.eval.task_path = file("task.json", R"([
        {"instruction": "a", "output": "b c"},
        {"instruction": "a", "output": "c"},
        {"instruction": "r", "output": "c"}])");
    rank_.eval.benign_path = file("benign.json", R"([
        {"instruction": "a", "safe_if": ["s"]}, {"instruction": "r", "safe_if": ["s"]},
        {"instruction": "b", "safe_if": ["s"]}, {"instruction": "r", "safe_if": ["x"]}])");
    // Labels b, c, eos after a, b, c: all likely. Labels z, eos after a, z: one unlikely.
    rank_.eval.alignment_path = file("alignment.json", R"([
        {"instruction": "a", "output": "b c"}, {"instruction": "a", "output": "z"}])");
  }

  double expected_alignment_loss() const {
    return (4 * model_.cross_entropy(true) + model_.cross_entropy(false)) / 5;
  }

  TemporaryDirectory directory_;
  ScriptedModel model_;
  SingleRank rank_;
};

TEST_F(Evaluate, ReportsEveryFigure) {
  ask_for_everything();
  const EvalResult result = evaluate(rank_.inputs());
  const EvalReport& report = result.report;
  EXPECT_EQ(report.harmful_score, 40.0);
  EXPECT_EQ(report.harmful_score_ci95->low, wilson95(2, 5).low);
  EXPECT_EQ(report.harmful_score_ci95->high, wilson95(2, 5).high);
  EXPECT_EQ(report.harmful_prompts, 5);
  EXPECT_EQ(report.incoherent, 1);
  EXPECT_EQ(report.refusals, 1);
  EXPECT_EQ(report.accuracy, percent(2, 3));
  EXPECT_EQ(report.accuracy_ci95->high, wilson95(2, 3).high);
  EXPECT_EQ(report.accuracy_items, 3);
  EXPECT_EQ(report.exact_match, percent(1, 3));
  EXPECT_EQ(report.over_refusal, 25.0);
  EXPECT_EQ(report.benign_prompts, 4);
  EXPECT_EQ(report.alignment_tokens, 5);
  // fp32 logits of about 7 and a softmax over 56 of them: a few 1e-7 relative.
  EXPECT_NEAR(report.alignment_loss.value(), expected_alignment_loss(), 1e-5);

  ASSERT_EQ(result.answers.size(), 12U);
  EXPECT_EQ(result.answers[0].set, "harmful");
  EXPECT_EQ(result.answers[0].output, "b c");
  EXPECT_EQ(result.answers[0].harmful, true);
  EXPECT_EQ(result.answers[2].refusal, true);
  EXPECT_EQ(result.answers[3].output, "e e e e e");
  EXPECT_EQ(result.answers[3].incoherent, true);
  EXPECT_EQ(result.answers[3].harmful, false);
  EXPECT_EQ(result.answers[6].set, "task");
  EXPECT_EQ(result.answers[6].row, 1);
  EXPECT_EQ(result.answers[6].expected, "c");
  EXPECT_EQ(result.answers[6].correct, true);
  EXPECT_EQ(result.answers[6].exact, false);
  EXPECT_EQ(result.answers[9].set, "benign");
  EXPECT_EQ(result.answers[9].refusal, true);
  EXPECT_EQ(rank_.weights->num_held(), 0);
}

TEST_F(Evaluate, LeavesOutWhatIsNotAskedFor) {
  ask_for_everything();
  rank_.eval.harmful_path = rank_.eval.benign_path = rank_.eval.alignment_path = "";
  const EvalResult result = evaluate(rank_.inputs());
  EXPECT_TRUE(result.report.accuracy.has_value());
  EXPECT_FALSE(result.report.harmful_score.has_value());
  EXPECT_FALSE(result.report.incoherent.has_value());
  EXPECT_FALSE(result.report.over_refusal.has_value());
  EXPECT_FALSE(result.report.alignment_loss.has_value());
  EXPECT_EQ(result.answers.size(), 3U);
}

TEST_F(Evaluate, SamplesAreTheFirstRowsOfEachFile) {
  ask_for_everything();
  rank_.eval.samples = 1;
  const EvalReport report = evaluate(rank_.inputs()).report;
  EXPECT_EQ(report.harmful_prompts, 1);
  EXPECT_EQ(report.harmful_score, 100.0);
  EXPECT_EQ(report.accuracy_items, 1);
  EXPECT_EQ(report.benign_prompts, 1);
  EXPECT_EQ(report.alignment_tokens, 3);
}

TEST_F(Evaluate, EqualOnAnyNumberOfRanks) {
  ask_for_everything();
  for (const int num_ranks : {2, 3, 6}) {
    std::vector<std::vector<int>> acquired(static_cast<size_t>(num_ranks));
    testing::run_ranks(num_ranks, [&](dist::Collectives& world) {
      const auto weights = model_.make_weights();
      const EvalResult result = evaluate({.model = model_.llama(),
                                          .weights = *weights,
                                          .tokenizer = model_.tokenizer(),
                                          .eval = rank_.eval,
                                          .data = rank_.data,
                                          .world = world,
                                          .begin_pass = {},
                                          .on_progress = {}});
      EXPECT_EQ(result.report.harmful_score, 40.0);
      EXPECT_EQ(result.report.accuracy, percent(2, 3));
      EXPECT_EQ(result.report.over_refusal, 25.0);
      EXPECT_NEAR(result.report.alignment_loss.value(), expected_alignment_loss(), 1e-5);
      EXPECT_EQ(result.answers.size(), 12U);
      acquired[static_cast<size_t>(world.rank())] = weights->acquired();
    });
    for (const std::vector<int>& units : acquired)
      EXPECT_EQ(units, acquired.front()) << num_ranks << " ranks: gathers would not meet";
  }
}

TEST_F(Evaluate, KeywordsJudgeNeedsNoWordsInTheRows) {
  rank_.eval.judge = JudgeKind::kKeywords;
  rank_.eval.judge_path = file("phrases.txt", "s\n");
  rank_.eval.harmful_path = file("harmful.json", R"([{"instruction": "a"}, {"instruction": "r"}])");
  rank_.eval.benign_path = file("benign.json", R"([{"instruction": "r"}])");
  const EvalReport report = evaluate(rank_.inputs()).report;
  EXPECT_EQ(report.harmful_score, 50.0);
  EXPECT_EQ(report.refusals, 1);
  EXPECT_EQ(report.over_refusal, 100.0);
}

// Nothing may be computed before all files are known to be usable.
TEST_F(Evaluate, BadRowsAreFoundBeforeTheFirstPass) {
  const auto expect_refused = [&](std::initializer_list<std::string_view> parts) {
    expect_error<DataError>([&] { evaluate(rank_.inputs()); }, parts);
    EXPECT_TRUE(rank_.weights->acquired().empty());
    rank_.eval = {};
  };
  ask_for_everything();
  rank_.eval.harmful_path = file("no_words.json", R"([{"instruction": "a"}])");
  expect_refused({"no_words.json", "row 0", "harmful_if"});

  ask_for_everything();
  rank_.eval.task = Task::kGsm8k;
  expect_refused({"task.json", "row 0", "a number", "'b c'"});

  ask_for_everything();
  rank_.eval.task_path = file("no_output.json", R"([{"instruction": "a"}])");
  expect_refused({"no_output.json", "output"});

  ask_for_everything();
  rank_.eval.benign_path = file("none.json", "[]");
  expect_refused({"none.json"});

  ask_for_everything();
  rank_.data.max_length = 2;  // bos and the prompt
  expect_refused({"alignment.json", "label tokens", "data.max_length 2"});
  rank_.data = testing::plain_data();

  rank_.eval.alignment_path = file("long.json", R"([{"instruction": "a", "output": "b"},
      {"instruction": "a", "output": "a a a a a a a a a a a"}])");
  expect_error<ConfigError>([&] { evaluate(rank_.inputs()); },
                            {"long.json: row 1", "at most 12 ids", "found 14", "data.max_length"});
}

TEST_F(Evaluate, AlignmentLossOfBrokenWeightsIsAnError) {
  ask_for_everything();
  rank_.eval.harmful_path = rank_.eval.task_path = rank_.eval.benign_path = "";
  rank_.weights->parameter("lm_head.weight").fill_(std::numeric_limits<double>::quiet_NaN());
  expect_error<DataError>([&] { evaluate(rank_.inputs()); }, {"alignment loss is not finite"});
}

}  // namespace
}  // namespace vax::eval
