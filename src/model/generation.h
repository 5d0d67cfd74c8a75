// Greedy answers for a batch of prompts, with a cache of keys and values: the prompts go through
// the model once, packed, then every sequence that has not ended adds one token a pass. Sequences
// that have ended leave the batch. Invariant for sharded weights: every rank runs the same number
// of passes, and every pass acquires the units of Model::unit_uses(false) in that order, also where
// a rank has nothing (left) to do.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/model.h"
#include "model/weights.h"

namespace vax::model {

struct GenerationOptions {
  int64_t max_new_tokens = 0;
  int64_t eos_id = -1;  // ends a sequence; negative: none does
  // Ids from here on are never chosen: those that pad the vocabulary beyond the tokenizer's.
  // 0: all ids may be.
  int64_t num_ids = 0;
  // Whether any rank still has active sequences, from whether this one has. Empty: one rank.
  // COLLECTIVE over the ranks that share the weights.
  std::function<bool(bool)> any_active;
  // Called before every pass, to announce its unit uses to a sharded source. May be empty.
  std::function<void()> begin_pass;
};

// The new ids of each prompt, eos not among them: at most max_new_tokens, fewer where eos came or
// prompt and answer fill the model's positions. Of equal logits the lowest id wins.
// COLLECTIVE where weights are sharded; `prompts` may be empty.
// THROWS ConfigError naming the prompt's index when prompt + 1 token do not fit the model,
// DataError when logits are not finite. REQUIRES prompts that are not empty, of ids below V.
std::vector<std::vector<int64_t>> generate_greedy(const Model& model, WeightSource& weights,
                                                  std::span<const std::vector<int64_t>> prompts,
                                                  const GenerationOptions& options);

}  // namespace vax::model
