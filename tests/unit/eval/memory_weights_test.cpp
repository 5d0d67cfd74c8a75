// The test double itself: its strictness is what other tests rely on.
#include "support/memory_weights.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "model/decoder/decoder.h"
#include "model/families/llama.h"

namespace vax::testing {
namespace {

using model::Decoder;

Decoder small_model(bool train_base) {
  const model::Spec config{.vocab_size = 11,
                           .hidden_size = 8,
                           .intermediate_size = 12,
                           .num_layers = 1,
                           .num_heads = 2,
                           .num_kv_heads = 1,
                           .head_dim = 4,
                           .names = model::llama_names()};
  const model::LoraSpec lora =
      train_base ? model::LoraSpec{} : model::make_lora_spec(config, 2, 4, {});
  return Decoder(config, lora, train_base, at::kBFloat16);
}

constexpr const char* kUpProj = "model.layers.0.mlp.up_proj.weight";
constexpr const char* kLoraA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

TEST(MemoryWeights, ValuesAreAFunctionOfSeedAndName) {
  const Decoder llama = small_model(false);
  const MemoryWeights a(llama, 1, 0.5), b(llama, 1, 0.5), c(llama, 2, 0.5);
  EXPECT_EQ(a.names().size(), 12U + 14U);
  for (const std::string& name : a.names()) EXPECT_TRUE(a.parameter(name).equal(b.parameter(name)));
  EXPECT_FALSE(a.parameter(kUpProj).equal(c.parameter(kUpProj)));
  EXPECT_EQ(a.parameter(kUpProj).scalar_type(), at::kBFloat16);
  EXPECT_EQ(a.parameter(kLoraA).scalar_type(), at::kFloat);
  EXPECT_EQ(a.parameter(kLoraA).sizes(), at::IntArrayRef({2, 8}));
  EXPECT_THROW(a.parameter("lm_head.bias"), std::logic_error);
}

TEST(MemoryWeights, HandsOutNamedValuesByRole) {
  const Decoder llama = small_model(false);
  MemoryWeights weights(llama, 1, 0.5);
  weights.parameter(kUpProj).fill_(3);
  const model::UnitTensors& block = weights.acquire(1);
  EXPECT_TRUE(block[model::kGateUp].narrow(0, 12, 12).eq(3).all().item<bool>());
  EXPECT_TRUE(block[model::lora_a_role(model::kQ)].equal(weights.parameter(kLoraA)));
  EXPECT_FALSE(block[model::kQkvBias].defined());
}

TEST(MemoryWeights, ReleasedTensorsHoldNaN) {
  const Decoder llama = small_model(false);
  MemoryWeights weights(llama, 1, 0.5);
  const at::Tensor kept = weights.acquire(1)[model::kMlpDown];
  EXPECT_FALSE(kept.isnan().any().item<bool>());
  weights.release(1);
  EXPECT_TRUE(kept.isnan().all().item<bool>());
  EXPECT_FALSE(weights.acquire(1)[model::kMlpDown].isnan().any().item<bool>());
}

TEST(MemoryWeights, AcquiresAndReleasesMustPair) {
  const Decoder llama = small_model(false);
  MemoryWeights weights(llama, 1, 0.5);
  EXPECT_THROW(weights.release(0), std::logic_error);
  weights.acquire(0);
  EXPECT_THROW(weights.acquire(0), std::logic_error);
  EXPECT_EQ(weights.num_held(), 1);
  weights.release(0);
  EXPECT_EQ(weights.num_held(), 0);
  EXPECT_EQ(weights.acquired(), std::vector<int>{0});
}

TEST(MemoryGradients, AccumulateUnderTheirNames) {
  const Decoder llama = small_model(true);
  MemoryGradients gradients(llama);
  model::UnitGradients& first = gradients.acquire(1);
  EXPECT_FALSE(first.accumulate);
  EXPECT_TRUE(first.tensors[model::kGateUp].isnan().all().item<bool>()) << "who adds gets NaN";
  first.tensors[model::kGateUp].fill_(1.5);
  EXPECT_THROW(gradients.acquire(1), std::logic_error);
  gradients.release(1);
  model::UnitGradients& second = gradients.acquire(1);
  EXPECT_TRUE(second.accumulate);
  second.tensors[model::kGateUp].add_(0.5);
  gradients.release(1);
  EXPECT_THROW(gradients.release(1), std::logic_error);
  EXPECT_EQ(gradients.gradient(kUpProj).scalar_type(), at::kFloat);
  EXPECT_TRUE(gradients.gradient(kUpProj).eq(2).all().item<bool>());
  EXPECT_TRUE(gradients.gradient("lm_head.weight").eq(0).all().item<bool>());
  EXPECT_THROW(gradients.gradient(kLoraA), std::logic_error);
  gradients.zero();
  EXPECT_TRUE(gradients.gradient(kUpProj).eq(0).all().item<bool>());
}

}  // namespace
}  // namespace vax::testing
