#include "eval/tasks.h"

#include <gtest/gtest.h>

#include "../data/data_test_support.h"
#include "base/choice.h"
#include "base/error.h"

namespace vax::eval {
namespace {

using data::test::expect_error;

data::Record row_with(std::string output) {
  data::Record row{.row = 3};
  row.output = std::move(output);
  return row;
}

bool correct(Task task, const std::string& output, const std::string& answer) {
  return score_answer(task, row_with(output), answer).correct;
}

bool exact(Task task, const std::string& output, const std::string& answer) {
  return score_answer(task, row_with(output), answer).exact;
}

TEST(Tasks, ParsedByName) {
  EXPECT_EQ(choice_of<Task>("label"), Task::kLabel);
  EXPECT_EQ(choice_of<Task>("sst2"), Task::kSst2);
  EXPECT_EQ(choice_of<Task>("agnews"), Task::kAgNews);
  EXPECT_EQ(choice_of<Task>("gsm8k"), Task::kGsm8k);
  EXPECT_EQ(choice_of<Task>("mmlu"), std::nullopt);
}

TEST(LabelTask, FoundOrExact) {
  EXPECT_TRUE(correct(Task::kLabel, "good", "It is Good."));
  EXPECT_FALSE(exact(Task::kLabel, "good", "It is Good."));
  EXPECT_TRUE(exact(Task::kLabel, " good\n", "good"));
  EXPECT_FALSE(exact(Task::kLabel, "good", "Good"));
  EXPECT_FALSE(correct(Task::kLabel, "good", "goods"));
  EXPECT_FALSE(correct(Task::kLabel, "good", ""));
}

TEST(Sst2Task, TheFirstLabelNamedCounts) {
  EXPECT_TRUE(correct(Task::kSst2, "positive", "The sentiment is Positive."));
  EXPECT_TRUE(correct(Task::kSst2, "negative", "negative, not positive"));
  EXPECT_FALSE(correct(Task::kSst2, "positive", "negative, not positive"));
  EXPECT_FALSE(correct(Task::kSst2, "positive", "neutral"));
  EXPECT_FALSE(correct(Task::kSst2, "positive", "positively"));
  EXPECT_TRUE(exact(Task::kSst2, "positive", "positive"));
}

TEST(AgNewsTask, KnowsTheSpellingsOfSciTech) {
  for (const char* answer : {"Sci/Tech", "sci/tech.", "Science and technology", "Technology"})
    EXPECT_TRUE(correct(Task::kAgNews, "Sci/Tech", answer)) << answer;
  EXPECT_FALSE(correct(Task::kAgNews, "Sci/Tech", "Business: fintech"));
  EXPECT_TRUE(correct(Task::kAgNews, "World", "World"));
  EXPECT_TRUE(correct(Task::kAgNews, "Sports", "this is about sport"));
  EXPECT_FALSE(correct(Task::kAgNews, "Business", "Sports, then Business"));
  EXPECT_FALSE(exact(Task::kAgNews, "Sci/Tech", "sci/tech"));
}

TEST(Gsm8kTask, ComparesFinalNumbers) {
  const std::string output = "3 + 4 = 7, twice that is 14.\n#### 1,400";
  EXPECT_TRUE(correct(Task::kGsm8k, output, "7 * 200. The final answer is: 1400"));
  EXPECT_TRUE(correct(Task::kGsm8k, output, "so it is $1,400.00."));
  EXPECT_FALSE(correct(Task::kGsm8k, output, "The final answer is: 14, not 1400"));
  EXPECT_FALSE(correct(Task::kGsm8k, output, "no idea"));
  EXPECT_TRUE(exact(Task::kGsm8k, output, output));
}

TEST(FinalNumber, MarkedNumberElseTheLast) {
  EXPECT_EQ(final_number("1 and 2"), 2);
  EXPECT_EQ(final_number("THE FINAL ANSWER IS: 5 apples out of 9"), 5);
  EXPECT_EQ(final_number("8 #### 6 of 7"), 6);
  EXPECT_EQ(final_number("4 of 3. the final answer is: unknown"), 3) << "no number after the mark";
  EXPECT_EQ(final_number("none"), std::nullopt);
  EXPECT_EQ(final_number(""), std::nullopt);
}

TEST(FinalNumber, ReadsNumbersAsPeopleWriteThem) {
  EXPECT_EQ(final_number("1,234,567"), 1234567);
  EXPECT_EQ(final_number("it costs $-2.5."), -2.5);
  EXPECT_EQ(final_number("-3"), -3);
  EXPECT_EQ(final_number("10-3"), 3) << "a difference";
  EXPECT_EQ(final_number("(1)-4"), 4) << "a difference";
  EXPECT_EQ(final_number("12."), 12);
  EXPECT_EQ(final_number("first, 2, last"), 2);
}

TEST(Tasks, ExpectedOutputsAreChecked) {
  EXPECT_NO_THROW(check_task_row(Task::kSst2, row_with("Positive"), "f"));
  EXPECT_NO_THROW(check_task_row(Task::kAgNews, row_with("Sci/Tech"), "f"));
  EXPECT_NO_THROW(check_task_row(Task::kGsm8k, row_with("#### 3"), "f"));
  EXPECT_NO_THROW(check_task_row(Task::kLabel, row_with("x"), "f"));
  for (const Task task : {Task::kLabel, Task::kSst2, Task::kAgNews, Task::kGsm8k})
    expect_error<DataError>([&] { check_task_row(task, row_with(" "), "items.json"); },
                            {"items.json", "row 3", "output: expected"});
  expect_error<DataError>([&] { check_task_row(Task::kSst2, row_with("1"), "items.json"); },
                          {"positive or negative", "'1'"});
}

}  // namespace
}  // namespace vax::eval
