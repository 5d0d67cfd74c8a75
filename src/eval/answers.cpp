#include "eval/answers.h"

#include <algorithm>
#include <span>

#include "base/error.h"
#include "base/narrow.h"
#include "data/packing.h"
#include "data/prompt.h"
#include "data/sample.h"
#include "eval/text_match.h"
#include "model/generation.h"

namespace vax::eval {
namespace {

std::vector<data::Record> read_slice(const PromptFile& file, data::RecordFormat format) {
  const data::ReadOptions options{.format = format, .require_output = file.require_output};
  std::vector<data::Record> records = data::read_records(file.path, options).records;
  const auto num_rows = narrow<int64_t>(records.size());
  if (num_rows <= file.skip)
    throw DataError(cat(file.path.string(), ": expected at least ", file.skip + 1, " rows for the ",
                        file.name, " prompts, found ", num_rows));
  const int64_t end = file.skip + std::min(file.samples.value_or(num_rows), num_rows - file.skip);
  return {std::make_move_iterator(records.begin() + file.skip),
          std::make_move_iterator(records.begin() + end)};
}

void check_prompt(const std::vector<int64_t>& ids, int64_t max_positions, const std::string& path,
                  int64_t row) {
  const auto num_ids = narrow<int64_t>(ids.size());
  if (num_ids == 0)
    throw DataError(cat(path, ": row ", row, ": expected a prompt of at least one id, found none"));
  if (num_ids + 1 > max_positions)
    throw DataError(cat(path, ": row ", row, ": expected a prompt of at most ", max_positions - 1,
                        " ids (the model's max_position_embeddings, less one for the answer), "
                        "found ",
                        num_ids));
}

model::GenerationOptions generation_options(const EvalInputs& inputs) {
  model::GenerationOptions options;
  options.max_new_tokens = inputs.eval.max_new_tokens;
  options.eos_id = inputs.tokenizer.eos_id();
  options.num_ids = inputs.tokenizer.vocab_size();
  options.begin_pass = inputs.begin_pass;
  options.any_active = [&world = inputs.world](bool active) {
    int32_t flag = active ? 1 : 0;
    world.all_reduce(&flag, 1, dist::DataType::kInt32, dist::ReduceOp::kMax).wait();
    return flag != 0;
  };
  return options;
}

// One row of a batch on the wire: the number of ids, then the ids, padded to a fixed width so that
// one gather of equal counts brings all of them.
class AnswerRows {
 public:
  AnswerRows(int64_t num_rows, int64_t max_new_tokens)
      : width_(max_new_tokens + 1), values_(narrow<size_t>(num_rows * width_)) {}

  void set(int64_t row, std::span<const int64_t> ids) {
    const auto begin = values_.begin() + row * width_;
    *begin = narrow<int64_t>(ids.size());
    std::ranges::copy(ids, begin + 1);
  }
  std::span<const int64_t> ids(int64_t row) const {
    const int64_t* const begin = values_.data() + row * width_;
    return {begin + 1, narrow<size_t>(*begin)};
  }
  // The rows of all ranks, rank by rank.
  AnswerRows gathered(dist::Collectives& world) const {
    AnswerRows all(0, width_ - 1);
    all.values_.resize(values_.size() * narrow<size_t>(world.size()));
    world
        .all_gather(values_.data(), all.values_.data(), narrow<int64_t>(values_.size()),
                    dist::DataType::kInt64)
        .wait();
    return all;
  }

 private:
  int64_t width_;
  std::vector<int64_t> values_;
};

// Rows [begin, begin + count) of the set: what `rank` answers in one round of batches.
data::Share batch_of(int64_t num_rows, int rank, int world_size, int64_t round, int64_t batch) {
  const data::Share share = data::share_of(num_rows, rank, world_size);
  const int64_t done = std::min(round * batch, share.count);
  return {.begin = share.begin + done, .count = std::min(batch, share.count - done)};
}

}  // namespace

PromptSet load_prompts(const EvalInputs& inputs, const PromptFile& file) {
  const data::SampleOptions options{.format = inputs.data.format,
                                    .parse_special = inputs.data.parse_special};
  const auto prompt_template = data::PromptTemplate::named(inputs.data.template_name);
  PromptSet set{.name = file.name, .path = file.path.string()};
  set.records = read_slice(file, options.format);
  for (const data::Record& record : set.records) {
    set.prompts.push_back(data::make_prompt(inputs.tokenizer, prompt_template, record, options));
    check_prompt(set.prompts.back(), inputs.model.max_positions(), set.path, record.row);
  }
  return set;
}

std::vector<std::string> answer_prompts(const EvalInputs& inputs, const PromptSet& set) {
  dist::Collectives& world = inputs.world;
  const int64_t batch = inputs.eval.batch;
  VAX_CHECK(batch >= 1, "eval.batch is ", batch);
  const model::GenerationOptions options = generation_options(inputs);
  const int64_t num_rounds = data::num_micro_batches(set.size(), world.size(), batch);
  std::vector<std::string> answers(set.records.size());
  int64_t done = 0;
  for (int64_t round = 0; round < num_rounds; ++round) {
    const data::Share own = batch_of(set.size(), world.rank(), world.size(), round, batch);
    const auto answered = model::generate_greedy(
        inputs.model, inputs.weights,
        std::span(set.prompts).subspan(narrow<size_t>(own.begin), narrow<size_t>(own.count)),
        options);
    AnswerRows rows(batch, options.max_new_tokens);
    for (size_t i = 0; i < answered.size(); ++i) rows.set(narrow<int64_t>(i), answered[i]);
    const AnswerRows all = rows.gathered(world);
    for (int rank = 0; rank < world.size(); ++rank) {
      const data::Share share = batch_of(set.size(), rank, world.size(), round, batch);
      for (int64_t i = 0; i < share.count; ++i)
        answers[narrow<size_t>(share.begin + i)] =
            trimmed(inputs.tokenizer.decode(all.ids(rank * batch + i)));
      done += share.count;
    }
    if (world.rank() == 0 && inputs.on_progress)
      inputs.on_progress({.part = set.name, .done = done, .total = set.size()});
  }
  return answers;
}

}  // namespace vax::eval
