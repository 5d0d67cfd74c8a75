// Scores one answer of a task against the row's expected output. `correct` is what accuracy counts;
// `exact` is stricter and the same for all tasks: the answer without surrounding white space equals
// the row's output.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "data/records.h"

namespace vax::eval {

enum class Task {
  kLabel,   // correct: the row's output is found in the answer
  kSst2,    // positive / negative; correct: the first label that the answer names is the row's
  kAgNews,  // World, Sports, Business, Sci/Tech; the same
  kGsm8k,   // correct: the answer's number equals that of the row's output
};

constexpr auto words_of(Task) {
  return std::to_array<std::string_view>({"label", "sst2", "agnews", "gsm8k"});
}

struct TaskScore {
  bool correct = false;
  bool exact = false;
};

// THROWS DataError naming file and row when the output is not what the task expects: empty, not one
// of the labels, without a number. Scores nothing; for a look before the answers are paid for.
void check_task_row(Task task, const data::Record& row, const std::string& file);

// REQUIRES a row that has passed check_task_row().
TaskScore score_answer(Task task, const data::Record& row, std::string_view answer);

// The number that a solution ends with: the first one after "The final answer is:" or "####" (the
// first such mark, in any case of letters), else the last one of the text. Commas between digits
// are thousands separators. Empty when there is no number.
std::optional<double> final_number(std::string_view text);

}  // namespace vax::eval
