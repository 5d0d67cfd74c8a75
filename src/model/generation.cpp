#include "model/generation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/narrow.h"
#include "ops/device/transfer.h"

namespace vax::model {
namespace {

using Prompts = std::span<const std::vector<int64_t>>;

void check_prompts(Prompts prompts, int64_t max_positions) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    VAX_CHECK(!prompts[i].empty(), "prompt ", i);
    if (narrow<int64_t>(prompts[i].size()) + 1 > max_positions)
      throw ConfigError(cat("prompt ", i, ": expected at most ", max_positions - 1,
                            " ids (max_position_embeddings - 1, so that one can follow), found ",
                            prompts[i].size()));
  }
}

// Adds one sequence to the batch: `ids` at positions from `first_position` on.
void append_sequence(PackedBatch& batch, std::span<const int64_t> ids, int64_t first_position) {
  if (batch.offsets.empty()) batch.offsets.push_back(0);
  const auto row = narrow<int32_t>(batch.num_sequences());
  for (size_t t = 0; t < ids.size(); ++t) {
    batch.ids.push_back(ids[t]);
    batch.positions.push_back(narrow<int32_t>(first_position + narrow<int64_t>(t)));
    batch.rows.push_back(row);
  }
  batch.offsets.push_back(narrow<int32_t>(batch.num_tokens()));
}

// One generation. A sequence is known by the index of its prompt, which is its slot in the cache.
class GreedyGeneration {
 public:
  GreedyGeneration(const Model& model, WeightSource& weights, Prompts prompts,
                   const GenerationOptions& options);

  std::vector<std::vector<int64_t>> run();

 private:
  void read_prompts();
  void add_tokens();
  // One pass; `batch` has a sequence for each active one. Those that go on stay active.
  void run_pass(const PackedBatch& batch);
  void choose_ids(const at::Tensor& logits_NV);
  bool has_ended(int32_t sequence, int64_t id) const;
  bool any_active() const;

  const Model& model_;
  WeightSource& weights_;
  Prompts prompts_;
  const GenerationOptions& options_;
  int64_t num_ids_;
  std::unique_ptr<DecodeCache> cache_;
  std::vector<int32_t> active_;  // sequences, ascending
  std::vector<std::vector<int64_t>> answers_;
};

GreedyGeneration::GreedyGeneration(const Model& model, WeightSource& weights, Prompts prompts,
                                   const GenerationOptions& options)
    : model_(model),
      weights_(weights),
      prompts_(prompts),
      options_(options),
      num_ids_(model.vocab_size()),
      answers_(prompts.size()) {
  check_prompts(prompts, model.max_positions());
  if (options.num_ids > 0) num_ids_ = std::min(num_ids_, options.num_ids);
  int64_t longest = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    longest = std::max(longest, narrow<int64_t>(prompts[i].size()));
    active_.push_back(narrow<int32_t>(i));
  }
  // The last new token needs no place: nothing follows that would attend to it.
  cache_ = model.make_cache(narrow<int64_t>(prompts.size()),
                            std::min(model.max_positions(), longest + options.max_new_tokens - 1));
}

std::vector<std::vector<int64_t>> GreedyGeneration::run() {
  read_prompts();
  while (any_active()) add_tokens();
  return std::move(answers_);
}

bool GreedyGeneration::any_active() const {
  return options_.any_active ? options_.any_active(!active_.empty()) : !active_.empty();
}

void GreedyGeneration::run_pass(const PackedBatch& batch) {
  if (options_.begin_pass) options_.begin_pass();
  choose_ids(model_.decode(batch, active_, *cache_, weights_));
}

void GreedyGeneration::read_prompts() {
  PackedBatch batch;
  for (const std::vector<int64_t>& prompt : prompts_) append_sequence(batch, prompt, 0);
  run_pass(batch);
}

void GreedyGeneration::add_tokens() {
  PackedBatch batch;
  for (const int32_t sequence : active_) {
    const auto s = static_cast<size_t>(sequence);
    const auto length = narrow<int64_t>(prompts_[s].size() + answers_[s].size());
    append_sequence(batch, {&answers_[s].back(), 1}, length - 1);
  }
  run_pass(batch);
}

void GreedyGeneration::choose_ids(const at::Tensor& logits_NV) {
  std::vector<int32_t> still_active;
  if (!active_.empty()) {
    const auto [largest, ids] = logits_NV.narrow(1, 0, num_ids_).max(1);
    const at::Tensor largest_N = ops::device::to_host(largest);
    const at::Tensor ids_N = ops::device::to_host(ids);
    for (size_t n = 0; n < active_.size(); ++n) {
      const int32_t sequence = active_[n];
      // The largest of a row that holds a NaN is NaN.
      if (!std::isfinite(largest_N.const_data_ptr<float>()[n]))
        throw DataError(cat("the logits after prompt ", sequence,
                            " are not finite: the weights hold NaN or infinity, or overflow"));
      const int64_t id = ids_N.const_data_ptr<int64_t>()[n];
      if (id != options_.eos_id) answers_[static_cast<size_t>(sequence)].push_back(id);
      if (!has_ended(sequence, id)) still_active.push_back(sequence);
    }
  }
  active_ = std::move(still_active);
}

bool GreedyGeneration::has_ended(int32_t sequence, int64_t id) const {
  const auto s = static_cast<size_t>(sequence);
  const auto num_new = narrow<int64_t>(answers_[s].size());
  return id == options_.eos_id || num_new == options_.max_new_tokens ||
         narrow<int64_t>(prompts_[s].size()) + num_new == model_.max_positions();
}

}  // namespace

std::vector<std::vector<int64_t>> generate_greedy(const Model& model, WeightSource& weights,
                                                  std::span<const std::vector<int64_t>> prompts,
                                                  const GenerationOptions& options) {
  VAX_CHECK(options.max_new_tokens >= 1, "max_new_tokens is ", options.max_new_tokens);
  return GreedyGeneration(model, weights, prompts, options).run();
}

}  // namespace vax::model
