#include "eval/report.h"

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/json_text.h"

namespace vax::eval {
namespace {

JsonText bounds(const std::optional<Interval>& interval) {
  if (!interval) return nullptr;
  return std::vector<double>{interval->low, interval->high};
}

template <typename T>
void add_if(JsonText& object, const char* key, const std::optional<T>& value) {
  if (value) object.add(key, *value);
}

JsonText to_object(const Answer& answer) {
  JsonText object = JsonText::object();
  if (!answer.set.empty()) object.add("set", answer.set);
  object.add("row", answer.row);
  object.add("instruction", answer.instruction);
  if (!answer.input.empty()) object.add("input", answer.input);
  object.add("output", answer.output);
  add_if(object, "expected", answer.expected);
  add_if(object, "harmful", answer.harmful);
  add_if(object, "incoherent", answer.incoherent);
  add_if(object, "refusal", answer.refusal);
  add_if(object, "correct", answer.correct);
  add_if(object, "exact", answer.exact);
  return object;
}

}  // namespace

std::string to_json(const EvalReport& report) {
  return JsonText({{"harmful_score", report.harmful_score},
                   {"harmful_score_ci95", bounds(report.harmful_score_ci95)},
                   {"harmful_prompts", report.harmful_prompts},
                   {"incoherent", report.incoherent},
                   {"refusals", report.refusals},
                   {"accuracy", report.accuracy},
                   {"accuracy_ci95", bounds(report.accuracy_ci95)},
                   {"accuracy_items", report.accuracy_items},
                   {"exact_match", report.exact_match},
                   {"alignment_loss", report.alignment_loss},
                   {"alignment_tokens", report.alignment_tokens},
                   {"over_refusal", report.over_refusal},
                   {"benign_prompts", report.benign_prompts}})
      .indented();
}

std::string to_json(std::span<const Answer> answers) {
  JsonText list = JsonText::array();
  for (const Answer& answer : answers) list.add(to_object(answer));
  return list.indented();
}

void write_answers(const std::filesystem::path& directory, std::span<const Answer> answers) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error)
    throw WriteError(cat(directory.string(), ": cannot make the directory: ", error.message()));
  publish_text(directory / "answers.json", to_json(answers));
}

void write_report(const std::filesystem::path& directory, const EvalReport& report,
                  std::span<const Answer> answers) {
  write_answers(directory, answers);
  publish_text(directory / "eval.json", to_json(report));
}

}  // namespace vax::eval
