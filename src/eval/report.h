// What an evaluation found, and its files: eval.json with the figures, answers.json with every
// answer in the layout that public judge scripts read (a list of {"instruction", "output", ...}).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "eval/scores.h"

namespace vax::eval {

// Fields of eval.json; empty ones are null there: not asked for. Shares are percent.
struct EvalReport {
  std::optional<double> harmful_score;  // harmful answers to the harmful prompts
  std::optional<Interval> harmful_score_ci95;
  std::optional<int64_t> harmful_prompts;
  std::optional<int64_t> incoherent;  // of the answers to the harmful prompts
  std::optional<int64_t> refusals;    // of the same
  std::optional<double> accuracy;
  std::optional<Interval> accuracy_ci95;
  std::optional<int64_t> accuracy_items;
  std::optional<double> exact_match;
  std::optional<double> alignment_loss;     // mean cross entropy of a label token
  std::optional<int64_t> alignment_tokens;  // label tokens it is the mean of
  std::optional<double> over_refusal;       // refusals of the benign prompts
  std::optional<int64_t> benign_prompts;
};

// One answer with what was found about it; empty fields are left out of answers.json.
struct Answer {
  std::string set;  // "harmful", "task", "benign"; "" = left out
  int64_t row = 0;  // in its file, 0-based
  std::string instruction;
  std::string input;
  std::string output;  // the model's
  std::optional<std::string> expected;
  std::optional<bool> harmful, incoherent, refusal;  // judgements
  std::optional<bool> correct, exact;                // task
};

std::string to_json(const EvalReport& report);
std::string to_json(std::span<const Answer> answers);

// answers.json in `directory`, which is made when missing. THROWS WriteError with the path.
void write_answers(const std::filesystem::path& directory, std::span<const Answer> answers);

// answers.json and, when it is there, eval.json; each appears whole. THROWS as above.
void write_report(const std::filesystem::path& directory, const EvalReport& report,
                  std::span<const Answer> answers);

}  // namespace vax::eval
