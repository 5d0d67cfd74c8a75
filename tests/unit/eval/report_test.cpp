#include "eval/report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "../data/data_test_support.h"
#include "base/atomic_file.h"
#include "base/error.h"

namespace vax::eval {
namespace {

using data::test::expect_error;
using data::test::TemporaryDirectory;
using nlohmann::json;

// The names that scripts of users read.
const std::vector<std::string> kFields = {"harmful_score",  "harmful_score_ci95", "harmful_prompts",
                                          "incoherent",     "refusals",           "accuracy",
                                          "accuracy_ci95",  "accuracy_items",     "exact_match",
                                          "alignment_loss", "over_refusal"};

TEST(Report, FieldsNotAskedForAreNull) {
  const json object = json::parse(to_json(EvalReport{}));
  for (const std::string& field : kFields) {
    ASSERT_TRUE(object.contains(field)) << field;
    EXPECT_TRUE(object[field].is_null()) << field;
  }
}

TEST(Report, HoldsValuesUnderTheirNames) {
  const EvalReport report{.harmful_score = 40.5,
                          .harmful_score_ci95 = Interval{.low = 30, .high = 50},
                          .harmful_prompts = 200,
                          .incoherent = 2,
                          .refusals = 3,
                          .accuracy = 90,
                          .accuracy_ci95 = Interval{.low = 80, .high = 95},
                          .accuracy_items = 300,
                          .exact_match = 85,
                          .alignment_loss = 0.125,
                          .alignment_tokens = 17,
                          .over_refusal = 5,
                          .benign_prompts = 100};
  const json object = json::parse(to_json(report));
  EXPECT_EQ(object["harmful_score"], 40.5);
  EXPECT_EQ(object["harmful_score_ci95"], json::parse("[30.0, 50.0]"));
  EXPECT_EQ(object["harmful_prompts"], 200);
  EXPECT_EQ(object["incoherent"], 2);
  EXPECT_EQ(object["refusals"], 3);
  EXPECT_EQ(object["accuracy"], 90);
  EXPECT_EQ(object["accuracy_ci95"], json::parse("[80.0, 95.0]"));
  EXPECT_EQ(object["accuracy_items"], 300);
  EXPECT_EQ(object["exact_match"], 85);
  EXPECT_EQ(object["alignment_loss"], 0.125);
  EXPECT_EQ(object["over_refusal"], 5);
}

TEST(Report, AnswersAreAListInOrder) {
  const std::vector<Answer> answers = {
      {.set = "harmful", .row = 0, .instruction = "q\"1", .output = "a\n1", .harmful = true},
      {.set = "task",
       .row = 4,
       .instruction = "q2",
       .input = "i",
       .output = "a2",
       .expected = "e",
       .correct = false,
       .exact = false}};
  const json list = json::parse(to_json(answers));
  EXPECT_EQ(list, json::parse(R"([
      {"set": "harmful", "row": 0, "instruction": "q\"1", "output": "a\n1", "harmful": true},
      {"set": "task", "row": 4, "instruction": "q2", "input": "i", "output": "a2",
       "expected": "e", "correct": false, "exact": false}])"));
  EXPECT_EQ(json::parse(to_json(std::span<const Answer>{})), json::array());
}

TEST(Report, WritesBothFilesIntoANewDirectory) {
  const TemporaryDirectory directory;
  const auto output = directory.path() / "runs" / "first";
  const std::vector<Answer> answers = {{.instruction = "q", .output = "a"}};
  write_report(output, {.accuracy = 50}, answers);
  EXPECT_EQ(json::parse(read_file(output / "eval.json"))["accuracy"], 50);
  EXPECT_EQ(json::parse(read_file(output / "answers.json"))[0]["output"], "a");
  write_report(output, {.accuracy = 60}, answers);
  EXPECT_EQ(json::parse(read_file(output / "eval.json"))["accuracy"], 60);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(output), {}), 2)
      << "temporary files were left behind";
}

TEST(Report, NamesTheDirectoryThatCannotBeMade) {
  const TemporaryDirectory directory;
  const auto file = directory.write("file", "");
  expect_error<WriteError>([&] { write_report(file / "sub", {}, {}); }, {"file/sub"});
}

}  // namespace
}  // namespace vax::eval
