#include "model/generation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/narrow.h"
#include "model/attention_half.h"
#include "model/mlp_half.h"
#include "ops/device/transfer.h"

namespace vax::model {
namespace {

using Prompts = std::span<const std::vector<int64_t>>;

void check_prompts(Prompts prompts, const LlamaConfig& config) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    VAX_CHECK(!prompts[i].empty(), "prompt ", i);
    if (narrow<int64_t>(prompts[i].size()) + 1 > config.max_position_embeddings)
      throw ConfigError(cat("prompt ", i, ": expected at most ", config.max_position_embeddings - 1,
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
  GreedyGeneration(const Llama& llama, WeightSource& weights, Prompts prompts,
                   const GenerationOptions& options);

  std::vector<std::vector<int64_t>> run();

 private:
  using Attention = std::function<at::Tensor(const BlockContext&, const UnitTensors&,
                                             const at::Tensor& x_TD, KeyValues& cache)>;

  void read_prompts();
  void add_tokens();
  at::Tensor run_blocks(const PackedBatch& batch, const Attention& attention);
  // `x_ND`: the last residual stream at the last token of each active sequence.
  void choose_ids(const at::Tensor& x_ND);
  bool has_ended(int32_t sequence, int64_t id) const;
  bool any_active() const;

  const Llama& llama_;
  WeightSource& weights_;
  Prompts prompts_;
  const GenerationOptions& options_;
  int64_t num_ids_;
  std::vector<KeyValues> cache_;  // by layer
  std::vector<int32_t> active_;   // sequences, ascending
  std::vector<std::vector<int64_t>> answers_;
};

GreedyGeneration::GreedyGeneration(const Llama& llama, WeightSource& weights, Prompts prompts,
                                   const GenerationOptions& options)
    : llama_(llama),
      weights_(weights),
      prompts_(prompts),
      options_(options),
      num_ids_(llama.config().vocab_size),
      answers_(prompts.size()) {
  const LlamaConfig& config = llama.config();
  const at::TensorOptions options_of_cache =
      at::TensorOptions(llama.compute_dtype()).device(llama.device());
  check_prompts(prompts, config);
  if (options.num_ids > 0) num_ids_ = std::min(num_ids_, options.num_ids);
  int64_t longest = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    longest = std::max(longest, narrow<int64_t>(prompts[i].size()));
    active_.push_back(narrow<int32_t>(i));
  }
  // The last new token needs no place: nothing follows that would attend to it.
  const int64_t capacity =
      std::min(config.max_position_embeddings, longest + options.max_new_tokens - 1);
  const std::vector<int64_t> shape = {narrow<int64_t>(prompts.size()), capacity,
                                      config.num_kv_heads, config.head_dim};
  for (int layer = 0; layer < llama.num_layers(); ++layer)
    cache_.push_back(
        {.k = at::empty(shape, options_of_cache), .v = at::empty(shape, options_of_cache)});
}

std::vector<std::vector<int64_t>> GreedyGeneration::run() {
  read_prompts();
  while (any_active()) add_tokens();
  return std::move(answers_);
}

bool GreedyGeneration::any_active() const {
  return options_.any_active ? options_.any_active(!active_.empty()) : !active_.empty();
}

at::Tensor GreedyGeneration::run_blocks(const PackedBatch& batch, const Attention& attention) {
  const PassOptions no_dropout;
  if (options_.begin_pass) options_.begin_pass();
  check_batch(batch, llama_.config());
  const PlacedBatch placed(batch, llama_.device());
  at::Tensor x_TD = llama_.embed(placed.view(), weights_);
  for (int layer = 0; layer < llama_.num_layers(); ++layer) {
    const HeldWeights held(weights_, layer + 1);
    if (batch.empty()) continue;
    const BlockContext context = llama_.make_context(placed.view(), layer, no_dropout);
    x_TD.add_(attention(context, held.all(), x_TD, cache_[static_cast<size_t>(layer)]));
    MlpSaved unused;
    x_TD.add_(mlp_forward(context, held.all(), x_TD, unused));
  }
  return x_TD;
}

void GreedyGeneration::read_prompts() {
  PackedBatch batch;
  for (const std::vector<int64_t>& prompt : prompts_) append_sequence(batch, prompt, 0);
  const auto attention = [&](const BlockContext& context, const UnitTensors& weights,
                             const at::Tensor& x_TD, KeyValues& cache) {
    AttentionSaved saved;
    at::Tensor e_TD = attention_forward(context, weights, x_TD, saved);
    const KeyValues tokens = split_key_values(context.dims, saved.qkv_TC);
    for (size_t s = 0; s < prompts_.size(); ++s) {
      const int64_t begin = batch.offsets[s], length = batch.offsets[s + 1] - begin;
      const auto slot = narrow<int64_t>(s);
      cache.k[slot].narrow(0, 0, length).copy_(tokens.k.narrow(0, begin, length));
      cache.v[slot].narrow(0, 0, length).copy_(tokens.v.narrow(0, begin, length));
    }
    return e_TD;
  };
  const at::Tensor x_TD = run_blocks(batch, attention);
  std::vector<int64_t> last_rows;
  for (size_t s = 0; s < prompts_.size(); ++s) last_rows.push_back(batch.offsets[s + 1] - 1);
  choose_ids(x_TD.index_select(
      0, ops::device::to_device(at::tensor(last_rows, at::kLong), llama_.device())));
}

void GreedyGeneration::add_tokens() {
  PackedBatch batch;
  std::vector<int32_t> lengths;
  for (const int32_t sequence : active_) {
    const auto s = static_cast<size_t>(sequence);
    const int64_t length = narrow<int64_t>(prompts_[s].size() + answers_[s].size());
    append_sequence(batch, {&answers_[s].back(), 1}, length - 1);
    lengths.push_back(narrow<int32_t>(length));
  }
  const CachePlaces places{
      .slots_B = ops::device::to_device(at::tensor(active_, at::kInt), llama_.device()),
      .lengths_B = ops::device::to_device(at::tensor(lengths, at::kInt), llama_.device())};
  choose_ids(run_blocks(batch, [&](const BlockContext& context, const UnitTensors& weights,
                                   const at::Tensor& x_BD, KeyValues& cache) {
    return attention_decode_forward(context, weights, x_BD, places, cache);
  }));
}

void GreedyGeneration::choose_ids(const at::Tensor& x_ND) {
  const at::Tensor logits_NV = llama_.logits(x_ND, weights_);
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
         narrow<int64_t>(prompts_[s].size()) + num_new == llama_.config().max_position_embeddings;
}

}  // namespace

std::vector<std::vector<int64_t>> generate_greedy(const Llama& llama, WeightSource& weights,
                                                  std::span<const std::vector<int64_t>> prompts,
                                                  const GenerationOptions& options) {
  VAX_CHECK(options.max_new_tokens >= 1, "max_new_tokens is ", options.max_new_tokens);
  return GreedyGeneration(llama, weights, prompts, options).run();
}

}  // namespace vax::model
