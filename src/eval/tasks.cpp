#include "eval/tasks.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <span>
#include <vector>

#include "base/error.h"
#include "eval/text_match.h"

namespace vax::eval {
namespace {

// One class of a classification task: all names that count for it, normalized.
using Label = std::span<const std::string_view>;

constexpr std::array<std::string_view, 1> kPositive = {"positive"};
constexpr std::array<std::string_view, 1> kNegative = {"negative"};
constexpr std::array<Label, 2> kSst2Labels = {kPositive, kNegative};

constexpr std::array<std::string_view, 1> kWorld = {"world"};
constexpr std::array<std::string_view, 2> kSports = {"sports", "sport"};
constexpr std::array<std::string_view, 1> kBusiness = {"business"};
constexpr std::array<std::string_view, 7> kSciTech = {
    "sci/tech", "sci-tech", "sci tech", "scitech", "science", "technology", "tech"};
constexpr std::array<Label, 4> kAgNewsLabels = {kWorld, kSports, kBusiness, kSciTech};

// The labels of a classification task; none for the others.
std::span<const Label> labels_of(Task task) {
  if (task == Task::kSst2) return kSst2Labels;
  if (task == Task::kAgNews) return kAgNewsLabels;
  return {};
}

// The label that the text names first; null when it names none.
const Label* first_label(std::span<const Label> labels, std::string_view text) {
  const std::string haystack = normalized(text);
  const Label* found = nullptr;
  size_t first = std::string::npos;
  for (const Label& label : labels)
    for (const std::string_view spelling : label) {
      const size_t at = find_word(haystack, spelling);
      if (at >= first) continue;
      first = at;
      found = &label;
    }
  return found;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string without_thousands_separators(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool between_digits =
        i > 0 && i + 1 < text.size() && is_digit(text[i - 1]) && is_digit(text[i + 1]);
    if (text[i] != ',' || !between_digits) result += text[i];
  }
  return result;
}

// All numbers of the text: digits with an optional fraction. A minus counts as a sign only where it
// cannot be a difference or a hyphen ("7-3" holds 7 and 3).
std::vector<double> numbers_in(std::string_view text) {
  std::vector<double> numbers;
  size_t at = 0;
  while (at < text.size()) {
    if (!is_digit(text[at])) {
      ++at;
      continue;
    }
    const bool minus = at > 0 && text[at - 1] == '-' &&
                       (at == 1 || (!is_digit(text[at - 2]) && text[at - 2] != ')'));
    double value = 0;
    const auto end = std::from_chars(text.data() + at, text.data() + text.size(), value,
                                     std::chars_format::fixed);
    if (end.ec == std::errc()) numbers.push_back(minus ? -value : value);
    at = static_cast<size_t>(end.ptr - text.data());
  }
  return numbers;
}

// What follows the first mark of a final answer; empty without one.
std::string_view after_mark(std::string_view text) {
  constexpr std::array<std::string_view, 2> kMarks = {"the final answer is:", "####"};
  size_t begin = std::string_view::npos;
  for (const std::string_view mark : kMarks) {
    const size_t at = text.find(mark);
    if (at != std::string_view::npos) begin = std::min(begin, at + mark.size());
  }
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin);
}

[[noreturn]] void fail_row(const data::Record& row, const std::string& file,
                           std::string_view expected) {
  throw DataError(
      cat(file, ": row ", row.row, ": output: expected ", expected, ", found '", row.output, "'"));
}

}  // namespace

void check_task_row(Task task, const data::Record& row, const std::string& file) {
  switch (task) {
    case Task::kLabel:
      if (trimmed(row.output).empty()) fail_row(row, file, "a label");
      return;
    case Task::kSst2:
      if (first_label(kSst2Labels, row.output) == nullptr)
        fail_row(row, file, "positive or negative (eval.task sst2)");
      return;
    case Task::kAgNews:
      if (first_label(kAgNewsLabels, row.output) == nullptr)
        fail_row(row, file, "World, Sports, Business or Sci/Tech (eval.task agnews)");
      return;
    case Task::kGsm8k:
      if (!final_number(row.output)) fail_row(row, file, "a number (eval.task gsm8k)");
      return;
  }
}

TaskScore score_answer(Task task, const data::Record& row, std::string_view answer) {
  TaskScore score{.exact = trimmed(answer) == trimmed(row.output)};
  switch (task) {
    case Task::kLabel:
      score.correct = contains_word(answer, row.output);
      break;
    case Task::kSst2:
    case Task::kAgNews: {
      const Label* const named = first_label(labels_of(task), answer);
      score.correct = named != nullptr && named == first_label(labels_of(task), row.output);
      break;
    }
    case Task::kGsm8k: {
      const std::optional<double> number = final_number(answer);
      score.correct = number.has_value() && number == final_number(row.output);
      break;
    }
  }
  return score;
}

std::optional<double> final_number(std::string_view text) {
  const std::string clean = without_thousands_separators(normalized(text));
  const std::vector<double> marked = numbers_in(after_mark(clean));
  if (!marked.empty()) return marked.front();
  const std::vector<double> all = numbers_in(clean);
  return all.empty() ? std::nullopt : std::optional(all.back());
}

}  // namespace vax::eval
