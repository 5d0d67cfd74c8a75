// Model shapes: config.json in both layouts and its faults, parameter layouts and their counts,
// adapters' names.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "model/decoder/layout.h"
#include "model/decoder/rotary_table.h"
#include "model/families/built_in.h"
#include "model/families/llama.h"
#include "model/lora.h"

namespace vax::model {
namespace {

using nlohmann::json;

json small_config() {
  return {{"model_type", "llama"},      {"vocab_size", 61},       {"hidden_size", 36},
          {"intermediate_size", 52},    {"num_hidden_layers", 2}, {"num_attention_heads", 6},
          {"num_key_value_heads", 3},   {"rms_norm_eps", 1e-5},   {"max_position_embeddings", 64},
          {"tie_word_embeddings", true}};
}

Spec parse_text(const std::string& text) { return built_in_families().parse(text, "config.json"); }

Spec parse(const json& config) { return parse_text(config.dump()); }

std::string message_of(const json& config) {
  try {
    parse(config);
  } catch (const DataError& e) {
    return e.what();
  }
  return "no error";
}

Spec llama2(int64_t hidden, int64_t ffn, int64_t layers, int64_t heads, int64_t kv_heads) {
  Spec config{.family = "Llama", .names = llama_names()};
  config.vocab_size = 32000;
  config.hidden_size = hidden;
  config.intermediate_size = ffn;
  config.num_layers = layers;
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = hidden / heads;
  return config;
}

TEST(LlamaConfig, ReadsBothRotaryLayouts) {
  json old_layout = small_config();
  old_layout["rope_theta"] = 5e5;
  old_layout["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  json new_layout = small_config();
  new_layout["rope_parameters"] = {{"rope_theta", 5e5}, {"rope_type", "linear"}, {"factor", 4.0}};
  for (const json& layout : {old_layout, new_layout}) {
    const Spec config = parse(layout);
    EXPECT_EQ(config.rope_theta, 5e5);
    EXPECT_EQ(config.rope_scaling.kind, ScalingKind::kAll);
    EXPECT_EQ(config.rope_scaling.factor, 4.0);
    EXPECT_EQ(config.num_kv_heads, 3);
    EXPECT_TRUE(config.tied_head);
  }
}

TEST(LlamaConfig, WrittenTextReadsBack) {
  Spec config = parse(small_config());
  config.rope_scaling = {
      .kind = ScalingKind::kLongWaves, .factor = 8, .original_max_positions = 32};
  config.biases.qkv = true;
  const Spec again = parse_text(llama_family().write(
      config, {.torch_dtype = "float32", .bos_id = 1, .eos_id = 2, .initializer_range = 0.02}));
  EXPECT_EQ(rotary_frequencies(again), rotary_frequencies(config));
  EXPECT_EQ(again.biases.qkv, true);
  EXPECT_EQ(again.head_dim, config.head_dim);
}

TEST(LlamaConfig, FaultsNameKeyExpectedAndFound) {
  const auto with = [](const char* key, const json& value) {
    json config = small_config();
    config[key] = value;
    return message_of(config);
  };
  EXPECT_EQ(with("model_type", "gpt2"),
            "config.json: \"model_type\": expected \"llama\", found \"gpt2\"");
  EXPECT_EQ(with("hidden_act", "gelu"),
            "config.json: \"hidden_act\": expected \"silu\", found \"gelu\"");
  EXPECT_EQ(with("num_key_value_heads", 4),
            "config.json: \"num_key_value_heads\": expected a divisor of num_attention_heads = 6, "
            "found 4");
  EXPECT_NE(with("hidden_size", 35).find("multiple of num_attention_heads"), std::string::npos);
  EXPECT_NE(with("head_dim", 5).find("even number"), std::string::npos);
  EXPECT_NE(with("vocab_size", -1).find("\"vocab_size\""), std::string::npos);
  EXPECT_NE(with("vocab_size", "many").find("an integer"), std::string::npos);
  EXPECT_NE(with("rope_scaling", json{{"type", "yarn"}}).find("\"yarn\""), std::string::npos);
  json missing = small_config();
  missing.erase("hidden_size");
  EXPECT_EQ(message_of(missing),
            "config.json: \"hidden_size\": expected an integer, found nothing");
  EXPECT_THROW(parse_text("{"), DataError);
  EXPECT_THROW(parse_text("[]"), DataError);
}

TEST(LlamaLayout, LoraParametersAtRank8OfThePaper) {
  const LoraSpec lora = make_lora_spec(llama2(4096, 11008, 32, 32, 32), 8, 4, {});
  EXPECT_EQ(num_parameters(lora_layout(llama2(4096, 11008, 32, 32, 32), lora)), 19'988'480);
  EXPECT_EQ(num_parameters(lora_layout(llama2(5120, 13824, 40, 40, 40), lora)), 31'293'440);
  EXPECT_EQ(num_parameters(lora_layout(llama2(8192, 28672, 80, 64, 8), lora)), 103'546'880);
}

TEST(LlamaLayout, BaseParametersOfLlama2) {
  EXPECT_EQ(num_parameters(base_layout(llama2(4096, 11008, 32, 32, 32))), 6'738'415'616);
  EXPECT_EQ(num_parameters(base_layout(llama2(8192, 28672, 80, 64, 8))), 68'976'648'192);
}

TEST(LlamaLayout, ATiedHeadIsNoParameterOfItsOwn) {
  Spec config = parse(small_config());
  const int64_t tied = num_parameters(base_layout(config));
  config.tied_head = false;
  EXPECT_EQ(num_parameters(base_layout(config)) - tied, 61 * 36);
}

TEST(LlamaLayout, NormsAndBiasesAreNotDecayed) {
  Spec config = parse(small_config());
  config.biases = {.qkv = true, .attention_out = true, .up = true, .down = true};
  std::set<std::string> not_decayed;
  for (const FlatUnit& unit : base_layout(config))
    for (const FlatGroup& group : unit.groups)
      for (const FlatMember& member : group.members) {
        EXPECT_EQ(member.decay, member.shape.size() == 2) << member.name;
        if (!member.decay) not_decayed.insert(member.name);
      }
  EXPECT_TRUE(not_decayed.contains("model.layers.1.self_attn.k_proj.bias"));
  EXPECT_TRUE(not_decayed.contains("model.norm.weight"));
}

TEST(LoraSpec, UnknownTargetsAreNamed) {
  const Spec spec = parse(small_config());
  try {
    make_lora_spec(spec, 8, 4, {"q_proj", "fc1"});
    FAIL() << "no error";
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("'fc1'"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("down_proj"), std::string::npos);
  }
  EXPECT_EQ(target_names(spec, make_lora_spec(spec, 8, 4, {"v_proj", "q_proj"})),
            (std::vector<std::string>{"q_proj", "v_proj"}));
}

}  // namespace
}  // namespace vax::model
