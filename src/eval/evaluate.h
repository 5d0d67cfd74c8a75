// Scores a model: harmful score, task accuracy, alignment loss and over-refusal, each where its
// file is given in EvalOptions. In two steps: files are read and checked without communication, so
// that callers can agree on a failure; then the model runs, on every rank.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "data/dataset.h"
#include "eval/answers.h"
#include "eval/judge.h"
#include "eval/report.h"
#include "eval/tasks.h"

namespace vax::eval {

// Everything that EvalOptions names, read and checked.
struct EvalFiles {
  std::unique_ptr<Judge> judge;
  RefusalPhrases phrases;
  Task task = Task::kLabel;
  std::optional<PromptSet> harmful, tasks, benign;
  std::optional<data::Dataset> alignment;
};

// Does not communicate. THROWS DataError and ConfigError for what a file or an option has wrong,
// naming file and row.
EvalFiles load_eval_files(const EvalInputs& inputs);

struct EvalResult {
  EvalReport report;
  std::vector<Answer> answers;  // harmful, task, benign; each in row order
};

// COLLECTIVE over inputs.world; every rank gets the whole result. THROWS DataError when logits or
// the alignment loss are not finite.
EvalResult evaluate(const EvalInputs& inputs, const EvalFiles& files);
// Both steps.
EvalResult evaluate(const EvalInputs& inputs);

// For answers without a judgement: the rows of data.path after data.skip, at most data.samples.
// Does not communicate. THROWS as load_prompts().
PromptSet load_data_prompts(const EvalInputs& inputs);
// COLLECTIVE over inputs.world. THROWS DataError when logits are not finite.
std::vector<Answer> generate_answers(const EvalInputs& inputs, const PromptSet& set);
// Both steps.
std::vector<Answer> generate_answers(const EvalInputs& inputs);

}  // namespace vax::eval
