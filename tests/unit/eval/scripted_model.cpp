#include "scripted_model.h"

#include <ATen/ATen.h>

#include <cmath>

#include "model/families/llama.h"

namespace vax::eval::testing {
namespace {

constexpr double kRmsNormEps = 1e-6;
constexpr const char* kSpace = "\xE2\x96\x81";  // "▁", the space of SentencePiece

// <unk> <s> </s> ▁, the letters, and every letter behind a space.
data::Tokenizer letter_tokenizer() {
  data::test::ModelWriter writer;
  writer.byte_fallback = false;
  writer.add("<unk>", data::PieceType::kUnknown);
  writer.add("<s>", data::PieceType::kControl);
  writer.add("</s>", data::PieceType::kControl);
  writer.add_merges({kSpace});
  for (char letter = 'a'; letter <= 'z'; ++letter) writer.add_merges({std::string(1, letter)});
  for (char letter = 'a'; letter <= 'z'; ++letter)
    writer.add_merges({std::string(kSpace) + letter});
  return writer.load();
}

// One hidden channel per id.
model::Spec scripted_config(int64_t vocabulary) {
  return {.vocab_size = vocabulary,
          .hidden_size = vocabulary,
          .intermediate_size = 8,
          .num_layers = 2,
          .num_heads = 2,
          .num_kv_heads = 1,
          .head_dim = 4,
          .max_positions = kMaxPositions,
          .norm_eps = kRmsNormEps,
          .names = model::llama_names()};
}

}  // namespace

ScriptedModel::ScriptedModel(const std::map<char, char>& next)
    : tokenizer_(letter_tokenizer()),
      llama_(scripted_config(tokenizer_.vocab_size()), {}, false, at::kFloat),
      next_(next) {}

int64_t ScriptedModel::id_of(char word) const {
  return word == kEos ? tokenizer_.eos_id() : tokenizer_.encode(std::string(1, word)).at(0);
}

std::unique_ptr<vax::testing::MemoryWeights> ScriptedModel::make_weights() const {
  auto weights = std::make_unique<vax::testing::MemoryWeights>(llama_, 0, 0.1);
  const int64_t vocabulary = tokenizer_.vocab_size();
  weights->parameter("model.embed_tokens.weight").copy_(at::eye(vocabulary));
  weights->parameter("model.norm.weight").fill_(1);
  for (int layer = 0; layer < llama_.num_layers(); ++layer)
    for (const char* name : {".self_attn.o_proj.weight", ".mlp.down_proj.weight"})
      weights->parameter("model.layers." + std::to_string(layer) + name).zero_();
  at::Tensor head_VD = weights->parameter("lm_head.weight").zero_();
  for (char word = 'a'; word <= 'z'; ++word) {
    const auto found = next_.find(word);
    const char following = found == next_.end() ? kEos : found->second;
    head_VD[id_of(following)][id_of(word)] = 1;
  }
  return weights;
}

double ScriptedModel::cross_entropy(bool is_next) const {
  const auto vocabulary = static_cast<double>(tokenizer_.vocab_size());
  const double logit = 1 / std::sqrt(1 / vocabulary + kRmsNormEps);  // of a normed unit vector
  return std::log(std::exp(logit) + vocabulary - 1) - (is_next ? logit : 0);
}

DataOptions plain_data() {
  DataOptions data;
  data.template_name = "plain";
  return data;
}

}  // namespace vax::eval::testing
