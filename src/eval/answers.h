// Greedy answers to the prompts of a file, divided over the ranks. Invariants: every rank reads the
// same rows, takes a contiguous block of them, and runs the same number of batches (empty ones at
// the end if it must), because weights may be gathered on use; every rank ends with all answers, in
// row order, independent of the number of ranks up to rounding.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_options.h"
#include "data/records.h"
#include "data/tokenizer.h"
#include "dist/comm/collectives.h"
#include "eval/eval_options.h"
#include "model/model.h"
#include "model/weights.h"

namespace vax::eval {

struct EvalProgress {
  std::string_view part;  // which file: "harmful", "task", ...
  int64_t done = 0;       // rows, over all ranks
  int64_t total = 0;
};

// Who answers, and how it is asked. Everything is borrowed.
struct EvalInputs {
  const model::Model& model;
  model::WeightSource& weights;
  const data::Tokenizer& tokenizer;
  const EvalOptions& eval;   // of which answers need max_new_tokens and batch
  const DataOptions& data;   // format, template, parse_special; max_length for the alignment loss
  dist::Collectives& world;  // all ranks; host memory
  // Called before every pass over the model, to announce its unit uses to a sharded source.
  std::function<void()> begin_pass;
  // Called on rank 0 after every batch.
  std::function<void(const EvalProgress&)> on_progress;
};

struct PromptFile {
  std::string name;  // what it is in messages and results: "harmful", "task", ...
  std::filesystem::path path;
  int64_t skip = 0;
  std::optional<int64_t> samples;  // at most so many; all
  bool require_output = false;     // rows without "output" are an error
};

struct PromptSet {
  std::string name;
  std::string path;
  std::vector<data::Record> records;
  std::vector<std::vector<int64_t>> prompts;  // ids, by record

  int64_t size() const { return static_cast<int64_t>(records.size()); }
};

// Prompts are never cut: a cut prompt asks something else. THROWS DataError naming file and row for
// a prompt that leaves no place for an answer (its ids + 1 > max_position_embeddings), for a file
// with no row after `skip`, and as data::read_records().
PromptSet load_prompts(const EvalInputs& inputs, const PromptFile& file);

// The answer to every prompt, without surrounding white space. COLLECTIVE over inputs.world.
std::vector<std::string> answer_prompts(const EvalInputs& inputs, const PromptSet& set);

}  // namespace vax::eval
