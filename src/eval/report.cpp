#include "eval/report.h"

#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"

namespace vax::eval {
namespace {

using json = nlohmann::ordered_json;

json to_value(const Interval& interval) { return {interval.low, interval.high}; }
template <typename T>
json to_value(const T& value) {
  return value;
}

template <typename T>
json value_or_null(const std::optional<T>& value) {
  return value ? to_value(*value) : json();
}

template <typename T>
void add_if(json& object, const char* key, const std::optional<T>& value) {
  if (value) object[key] = *value;
}

json to_object(const Answer& answer) {
  json object;
  if (!answer.set.empty()) object["set"] = answer.set;
  object["row"] = answer.row;
  object["instruction"] = answer.instruction;
  if (!answer.input.empty()) object["input"] = answer.input;
  object["output"] = answer.output;
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
  const json object = {{"harmful_score", value_or_null(report.harmful_score)},
                       {"harmful_score_ci95", value_or_null(report.harmful_score_ci95)},
                       {"harmful_prompts", value_or_null(report.harmful_prompts)},
                       {"incoherent", value_or_null(report.incoherent)},
                       {"refusals", value_or_null(report.refusals)},
                       {"accuracy", value_or_null(report.accuracy)},
                       {"accuracy_ci95", value_or_null(report.accuracy_ci95)},
                       {"accuracy_items", value_or_null(report.accuracy_items)},
                       {"exact_match", value_or_null(report.exact_match)},
                       {"alignment_loss", value_or_null(report.alignment_loss)},
                       {"alignment_tokens", value_or_null(report.alignment_tokens)},
                       {"over_refusal", value_or_null(report.over_refusal)},
                       {"benign_prompts", value_or_null(report.benign_prompts)}};
  return object.dump(2) + "\n";
}

std::string to_json(std::span<const Answer> answers) {
  json list = json::array();
  for (const Answer& answer : answers) list.push_back(to_object(answer));
  return list.dump(2) + "\n";
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
