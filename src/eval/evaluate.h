// Scores a model: harmful score, task accuracy, alignment loss and over-refusal, each where its
// file is given in EvalOptions. All files are read and checked before the first pass over the
// model.
#pragma once

#include <vector>

#include "eval/answers.h"
#include "eval/report.h"

namespace vax::eval {

struct EvalResult {
  EvalReport report;
  std::vector<Answer> answers;  // harmful, task, benign; each in row order
};

// COLLECTIVE over inputs.world; every rank gets the whole result. THROWS DataError and ConfigError
// for what a file or an option has wrong, naming file and row.
EvalResult evaluate(const EvalInputs& inputs);

// Answers to the rows of data.path after data.skip, at most data.samples, without a judgement.
// COLLECTIVE over inputs.world. THROWS as above.
std::vector<Answer> generate_answers(const EvalInputs& inputs);

}  // namespace vax::eval
