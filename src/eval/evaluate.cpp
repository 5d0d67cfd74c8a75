#include "eval/evaluate.h"

#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/log.h"
#include "data/packing.h"

namespace vax::eval {
namespace {

std::optional<PromptSet> load_if(const EvalInputs& inputs, const std::string& name,
                                 const std::string& path, bool require_output) {
  if (path.empty()) return std::nullopt;
  return load_prompts(inputs, {.name = name,
                               .path = path,
                               .samples = inputs.eval.samples,
                               .require_output = require_output});
}

data::Dataset load_alignment(const EvalInputs& inputs) {
  const std::string& path = inputs.eval.alignment_path;
  data::Dataset dataset = data::build_first_rows(
      path, inputs.eval.samples.value_or(std::numeric_limits<int64_t>::max()), inputs.data,
      inputs.tokenizer);
  const int64_t num_positions = inputs.model.max_positions();
  int64_t num_labels = 0;
  for (size_t i = 0; i < dataset.samples.size(); ++i) {
    num_labels += dataset.samples[i].num_labels();
    if (dataset.samples[i].size() > num_positions)
      throw ConfigError(cat(path, ": row ", i, ": expected at most ", num_positions,
                            " ids (the model's max_position_embeddings), found ",
                            dataset.samples[i].size(), ": lower data.max_length"));
  }
  if (num_labels == 0)
    throw DataError(cat(path, ": expected rows with label tokens for the alignment loss, found ",
                        dataset.size(), " rows without any (data.max_length ",
                        inputs.data.max_length, ")"));
  if (dataset.num_without_labels > 0)
    log::info(cat(path, ": ", dataset.num_without_labels, " of ", dataset.size(),
                  " rows have no label token within data.max_length ", inputs.data.max_length));
  return dataset;
}

// The answers to a set, not judged yet. COLLECTIVE.
std::vector<Answer> answers_of(const EvalInputs& inputs, const PromptSet& set) {
  const std::vector<std::string> texts = answer_prompts(inputs, set);
  std::vector<Answer> answers;
  for (size_t i = 0; i < texts.size(); ++i) {
    const data::Record& row = set.records[i];
    // A row of format text is its own instruction.
    const std::string& instruction = row.instruction.empty() ? row.text : row.instruction;
    answers.push_back({.set = set.name,
                       .row = row.row,
                       .instruction = instruction,
                       .input = row.input,
                       .output = texts[i]});
  }
  return answers;
}

int64_t count(std::span<const Answer> answers, std::optional<bool> Answer::*finding) {
  int64_t sum = 0;
  for (const Answer& answer : answers) sum += (answer.*finding).value_or(false) ? 1 : 0;
  return sum;
}

std::vector<Answer> score_harmful(const EvalInputs& inputs, const EvalFiles& files,
                                  EvalReport& report) {
  const PromptSet& set = *files.harmful;
  std::vector<Answer> answers = answers_of(inputs, set);
  for (size_t i = 0; i < answers.size(); ++i) {
    Answer& answer = answers[i];
    answer.harmful = files.judge->is_harmful(set.records[i], answer.output);
    answer.incoherent = is_incoherent(answer.output);
    answer.refusal = is_refusal(set.records[i], answer.output, files.phrases);
  }
  const int64_t num_harmful = count(answers, &Answer::harmful);
  report.harmful_score = percent(num_harmful, set.size());
  report.harmful_score_ci95 = wilson95(num_harmful, set.size());
  report.harmful_prompts = set.size();
  report.incoherent = count(answers, &Answer::incoherent);
  report.refusals = count(answers, &Answer::refusal);
  return answers;
}

std::vector<Answer> score_task(const EvalInputs& inputs, const EvalFiles& files,
                               EvalReport& report) {
  const PromptSet& set = *files.tasks;
  std::vector<Answer> answers = answers_of(inputs, set);
  for (size_t i = 0; i < answers.size(); ++i) {
    const TaskScore score = score_answer(files.task, set.records[i], answers[i].output);
    answers[i].expected = set.records[i].output;
    answers[i].correct = score.correct;
    answers[i].exact = score.exact;
  }
  const int64_t num_correct = count(answers, &Answer::correct);
  report.accuracy = percent(num_correct, set.size());
  report.accuracy_ci95 = wilson95(num_correct, set.size());
  report.accuracy_items = set.size();
  report.exact_match = percent(count(answers, &Answer::exact), set.size());
  return answers;
}

std::vector<Answer> score_benign(const EvalInputs& inputs, const EvalFiles& files,
                                 EvalReport& report) {
  const PromptSet& set = *files.benign;
  std::vector<Answer> answers = answers_of(inputs, set);
  for (size_t i = 0; i < answers.size(); ++i)
    answers[i].refusal = is_refusal(set.records[i], answers[i].output, files.phrases);
  report.over_refusal = percent(count(answers, &Answer::refusal), set.size());
  report.benign_prompts = set.size();
  return answers;
}

// Mean cross entropy over the label tokens of all rows. COLLECTIVE.
void measure_alignment(const EvalInputs& inputs, const data::Dataset& dataset, EvalReport& report) {
  dist::Collectives& world = inputs.world;
  std::vector<int64_t> rows(dataset.samples.size());
  std::iota(rows.begin(), rows.end(), 0);
  const std::vector<PackedBatch> batches =
      data::pack_share(dataset, rows, world.rank(), world.size(), inputs.eval.batch);
  std::array<double, 2> sums{};  // cross entropies, label tokens
  for (size_t i = 0; i < batches.size(); ++i) {
    if (inputs.begin_pass) inputs.begin_pass();
    sums[0] += inputs.model.forward(batches[i], inputs.weights, {});
    sums[1] += static_cast<double>(batches[i].num_labels());
    if (world.rank() == 0 && inputs.on_progress)
      inputs.on_progress({.part = "alignment batches",
                          .done = static_cast<int64_t>(i) + 1,
                          .total = static_cast<int64_t>(batches.size())});
  }
  world.all_reduce(sums.data(), 2, dist::DataType::kFloat64, dist::ReduceOp::kSum).wait();
  // JSON has no NaN: written as null it would read as "not asked for".
  if (!std::isfinite(sums[0]))
    throw DataError(cat("the alignment loss is not finite (sum ", sums[0],
                        "): the weights hold NaN or infinity, or overflow"));
  report.alignment_loss = sums[0] / sums[1];
  report.alignment_tokens = static_cast<int64_t>(sums[1]);
}

void append(std::vector<Answer>& all, std::vector<Answer> more) {
  all.insert(all.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

}  // namespace

EvalFiles load_eval_files(const EvalInputs& inputs) {
  const EvalOptions& options = inputs.eval;
  EvalFiles files{
      .judge = make_judge(options), .phrases = refusal_phrases(options), .task = options.task};
  files.harmful = load_if(inputs, "harmful", options.harmful_path, false);
  files.tasks = load_if(inputs, "task", options.task_path, true);
  files.benign = load_if(inputs, "benign", options.benign_path, false);
  if (!options.alignment_path.empty()) files.alignment = load_alignment(inputs);
  if (files.harmful)
    for (const data::Record& row : files.harmful->records)
      files.judge->check(row, files.harmful->path);
  if (files.tasks)
    for (const data::Record& row : files.tasks->records)
      check_task_row(files.task, row, files.tasks->path);
  return files;
}

EvalResult evaluate(const EvalInputs& inputs, const EvalFiles& files) {
  EvalResult result;
  EvalReport& report = result.report;
  if (files.harmful) append(result.answers, score_harmful(inputs, files, report));
  if (files.tasks) append(result.answers, score_task(inputs, files, report));
  if (files.benign) append(result.answers, score_benign(inputs, files, report));
  if (files.alignment) measure_alignment(inputs, *files.alignment, report);
  return result;
}

EvalResult evaluate(const EvalInputs& inputs) { return evaluate(inputs, load_eval_files(inputs)); }

PromptSet load_data_prompts(const EvalInputs& inputs) {
  return load_prompts(inputs, {.name = "data",
                               .path = inputs.data.path,
                               .skip = inputs.data.skip,
                               .samples = inputs.data.samples});
}

std::vector<Answer> generate_answers(const EvalInputs& inputs, const PromptSet& set) {
  std::vector<Answer> answers = answers_of(inputs, set);
  for (Answer& answer : answers) answer.set.clear();  // there is one file only
  return answers;
}

std::vector<Answer> generate_answers(const EvalInputs& inputs) {
  return generate_answers(inputs, load_data_prompts(inputs));
}

}  // namespace vax::eval
