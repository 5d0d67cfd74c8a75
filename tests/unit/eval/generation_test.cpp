// Greedy generation with its cache against the model run over the whole sequence again for every
// new id, on small random models.
#include "model/generation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"
#include "base/narrow.h"
#include "model/decoder/decoder.h"
#include "model/families/llama.h"
#include "support/memory_weights.h"

namespace vax::model {
namespace {

using testing::MemoryWeights;
using Ids = std::vector<int64_t>;

constexpr int64_t kVocabulary = 61;

struct Variant {
  const char* name;
  at::ScalarType dtype;
  bool lora;
  bool tied;
  bool bias;
};

void PrintTo(const Variant& variant, std::ostream* out) { *out << variant.name; }

Spec small_config(bool tied, bool bias) {
  return {.vocab_size = kVocabulary,
          .hidden_size = 32,
          .intermediate_size = 48,
          .num_layers = 2,
          .num_heads = 4,
          .num_kv_heads = 2,
          .head_dim = 8,
          .max_positions = 24,
          .tied_head = tied,
          .biases = {.qkv = bias, .attention_out = bias, .up = bias, .down = bias},
          .names = llama_names()};
}

Decoder small_model(const Variant& variant) {
  const Spec spec = small_config(variant.tied, variant.bias);
  const LoraSpec lora = variant.lora ? make_lora_spec(spec, 3, 6, {}) : LoraSpec{};
  return Decoder(spec, lora, false, variant.dtype);
}

Decoder plain_model() { return Decoder(small_config(false, false), {}, false, at::kFloat); }

// Weights large enough that attention is far from uniform and logits are well apart.
constexpr double kScale = 0.3;

const std::vector<Ids> kPrompts = {{5, 17, 3}, {42}, {9, 8, 7, 6, 5, 4, 3, 2, 1, 60, 33}, {11, 12}};

// Logits [V] after a whole sequence, no cache.
at::Tensor logits_after(const Decoder& llama, MemoryWeights& weights, const Ids& ids) {
  PackedBatch batch;
  batch.ids = ids;
  for (size_t t = 0; t < ids.size(); ++t) batch.positions.push_back(narrow<int32_t>(t));
  batch.rows.assign(ids.size(), 0);
  batch.offsets = {0, narrow<int32_t>(ids.size())};
  return llama.logits(batch, weights)[batch.num_tokens() - 1];
}

class Generation : public ::testing::TestWithParam<Variant> {};

// Every chosen id must have the largest logit of the recomputation, up to what the cache's other
// order of summation may change.
TEST_P(Generation, ChoosesWhatTheWholeSequenceWouldGive) {
  const Decoder llama = small_model(GetParam());
  MemoryWeights weights(llama, 1, kScale);
  const GenerationOptions options{.max_new_tokens = 12};
  const auto answers = generate_greedy(llama, weights, kPrompts, options);
  ASSERT_EQ(answers.size(), kPrompts.size());
  // Logits are about 6. The cache sums in another order: fp32, 48 products at most, far below 1e-4.
  // bf16: half an ulp of a logit is 0.016, and a few such roundings meet in two layers and the
  // head.
  const double tolerance = GetParam().dtype == at::kFloat ? 1e-4 : 0.15;
  int num_clear = 0, num_chosen = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    ASSERT_EQ(answers[i].size(), 12U);
    Ids sequence = kPrompts[i];
    for (const int64_t id : answers[i]) {
      const at::Tensor logits = logits_after(llama, weights, sequence);
      const at::Tensor top = std::get<0>(logits.topk(2));
      EXPECT_LE(top[0].item<double>() - logits[id].item<double>(), tolerance)
          << "prompt " << i << " after " << sequence.size() << " ids";
      num_clear += (top[0] - top[1]).item<double>() > tolerance ? 1 : 0;
      ++num_chosen;
      sequence.push_back(id);
    }
  }
  // The test would say nothing if many ids passed by the tolerance alone.
  EXPECT_GE(num_clear, num_chosen * 3 / 4);
  EXPECT_EQ(weights.num_held(), 0);
}

INSTANTIATE_TEST_SUITE_P(Models, Generation,
                         ::testing::Values(Variant{"fp32", at::kFloat, false, false, false},
                                           Variant{"fp32Lora", at::kFloat, true, false, false},
                                           Variant{"fp32TiedBias", at::kFloat, false, true, true},
                                           Variant{"bf16Lora", at::kBFloat16, true, false, false}),
                         [](const auto& variant) { return std::string(variant.param.name); });

TEST(GenerationBatch, NeighboursDoNotMatter) {
  const Decoder llama = plain_model();
  MemoryWeights weights(llama, 2, kScale);
  const GenerationOptions options{.max_new_tokens = 8};
  const auto together = generate_greedy(llama, weights, kPrompts, options);
  for (size_t i = 0; i < kPrompts.size(); ++i)
    EXPECT_EQ(generate_greedy(llama, weights, {&kPrompts[i], 1}, options)[0], together[i]);
}

TEST(GenerationBatch, SequencesEndAtEosAndLeaveTheOthersAlone) {
  const Decoder llama = plain_model();
  MemoryWeights weights(llama, 3, kScale);
  GenerationOptions options{.max_new_tokens = 10};
  auto expected = generate_greedy(llama, weights, kPrompts, options);
  options.eos_id = expected[0][4];
  int num_cut = 0;
  for (Ids& answer : expected) {
    const auto eos = std::find(answer.begin(), answer.end(), options.eos_id);
    num_cut += eos != answer.end() ? 1 : 0;
    answer.erase(eos, answer.end());
  }
  ASSERT_GE(num_cut, 1);
  ASSERT_LT(num_cut, std::ssize(kPrompts)) << "some sequence must go on after others have ended";
  EXPECT_EQ(generate_greedy(llama, weights, kPrompts, options), expected);
}

TEST(GenerationLimits, StopsWhereTheModelsPositionsEnd) {
  const Decoder llama = plain_model();  // 24 positions
  MemoryWeights weights(llama, 4, kScale);
  const std::vector<Ids> prompts = {Ids(23, 5), Ids(20, 6), Ids(1, 7)};
  const auto answers = generate_greedy(llama, weights, prompts, {.max_new_tokens = 100});
  EXPECT_EQ(answers[0].size(), 1U);
  EXPECT_EQ(answers[1].size(), 4U);
  EXPECT_EQ(answers[2].size(), 23U);
}

TEST(GenerationLimits, RefusesPromptsThatLeaveNoPlace) {
  const Decoder llama = plain_model();
  MemoryWeights weights(llama, 4, kScale);
  const std::vector<Ids> prompts = {Ids(3, 5), Ids(24, 6)};
  try {
    generate_greedy(llama, weights, prompts, {.max_new_tokens = 1});
    FAIL() << "expected an error";
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("prompt 1: expected at most 23 ids"), std::string::npos) << message;
    EXPECT_NE(message.find("found 24"), std::string::npos) << message;
  }
}

TEST(GenerationLimits, NeverChoosesIdsBeyondTheTokenizers) {
  const Decoder llama = plain_model();
  MemoryWeights weights(llama, 5, kScale);
  constexpr int64_t kNumIds = 7;
  const auto free = generate_greedy(llama, weights, kPrompts, {.max_new_tokens = 6});
  const auto limited =
      generate_greedy(llama, weights, kPrompts, {.max_new_tokens = 6, .num_ids = kNumIds});
  EXPECT_NE(free, limited) << "the limit must matter here";
  const at::Tensor logits = logits_after(llama, weights, kPrompts[0]).narrow(0, 0, kNumIds);
  EXPECT_EQ(limited[0][0], logits.argmax().item<int64_t>());
  for (const Ids& answer : limited)
    for (const int64_t id : answer) EXPECT_LT(id, kNumIds);
}

TEST(GenerationLimits, ReportsWeightsThatAreNotFinite) {
  const Decoder llama = plain_model();
  MemoryWeights weights(llama, 6, kScale);
  weights.parameter("lm_head.weight")[3].fill_(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THROW(generate_greedy(llama, weights, kPrompts, {.max_new_tokens = 2}), DataError);
}

// Ranks that gather weights together must ask for the same units equally often, whatever each has
// left to do.
TEST(GenerationSharded, RanksWithoutWorkAcquireTheSameUnits) {
  const Decoder llama = small_model({"", at::kFloat, false, true, false});
  MemoryWeights busy(llama, 7, kScale), idle(llama, 7, kScale);
  GenerationOptions options{.max_new_tokens = 5};
  int num_passes = 0;
  options.begin_pass = [&] { ++num_passes; };
  generate_greedy(llama, busy, kPrompts, options);
  EXPECT_EQ(num_passes, 5);

  int num_rounds = 0;
  options.begin_pass = {};
  options.any_active = [&](bool active) {
    EXPECT_FALSE(active);
    return ++num_rounds < 5;  // as if another rank had the prompts above
  };
  EXPECT_TRUE(generate_greedy(llama, idle, {}, options).empty());
  EXPECT_EQ(idle.acquired(), busy.acquired());

  std::vector<int> announced;
  for (int pass = 0; pass < num_passes; ++pass)
    for (const int unit : llama.unit_uses(false)) announced.push_back(unit);
  EXPECT_EQ(busy.acquired(), announced);
}

}  // namespace
}  // namespace vax::model
