// A Llama whose answers a test can write down: attention and MLP give zero, embeddings are unit
// vectors, and the head maps each id to the one that shall follow it. Text is made of one-letter
// words ("a" to "z"), so an answer is a walk along the arrows that the test has drawn.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "../data/data_test_support.h"
#include "data/data_options.h"
#include "data/tokenizer.h"
#include "eval/answers.h"
#include "eval/eval_options.h"
#include "model/decoder/decoder.h"
#include "support/memory_weights.h"

namespace vax::eval::testing {

inline constexpr char kEos = '.';

// Ids of a sequence at most, prompt and answer.
inline constexpr int64_t kMaxPositions = 12;

class ScriptedModel {
 public:
  // `next`: which word follows a word; kEos ends. Words without an entry are followed by eos.
  explicit ScriptedModel(const std::map<char, char>& next);

  const model::Decoder& llama() const { return llama_; }
  const data::Tokenizer& tokenizer() const { return tokenizer_; }
  // Each rank needs weights of its own.
  std::unique_ptr<vax::testing::MemoryWeights> make_weights() const;
  int64_t id_of(char word) const;  // kEos too
  // Cross entropy of a prediction of one id by the word before it: one logit is larger than all
  // others, which are zero.
  double cross_entropy(bool is_next) const;

 private:
  data::Tokenizer tokenizer_;
  model::Decoder llama_;
  std::map<char, char> next_;
};

// Options with which prompts are rendered as instruction[ input].
DataOptions plain_data();

// One rank.
struct SingleRank {
  explicit SingleRank(const ScriptedModel& scripted)
      : model(scripted), weights(scripted.make_weights()), world(dist::make_self_collectives()) {}

  EvalInputs inputs() {
    return {.model = model.llama(),
            .weights = *weights,
            .tokenizer = model.tokenizer(),
            .eval = eval,
            .data = data,
            .world = *world,
            .begin_pass = {},
            .on_progress = {}};
  }

  const ScriptedModel& model;
  std::unique_ptr<vax::testing::MemoryWeights> weights;
  std::unique_ptr<dist::Collectives> world;
  EvalOptions eval;
  DataOptions data = plain_data();
};

}  // namespace vax::eval::testing
