// Adapter directories: round trip, and refusal of everything that is not plain LoRA.
#include "io/peft_adapter.h"

#include <nlohmann/json.hpp>
#include <numeric>

#include "base/atomic_file.h"
#include "io/safetensors_writer.h"
#include "io_test_support.h"

namespace vax::io {
namespace {

using nlohmann::json;
using testing::expect_data_error;
using testing::list_directory;

constexpr const char* kModule = "model.layers.0.self_attn.q_proj";

class PeftAdapterTest : public ::testing::Test {
 protected:
  PeftAdapterTest() : a_(2 * 3), b_(5 * 2) {
    std::iota(a_.begin(), a_.end(), 0.5f);
    std::iota(b_.begin(), b_.end(), 100.0f);
    config_.r = 2;
    config_.alpha = 4;
    config_.dropout = 0.1;
    config_.targets = {"q_proj", "v_proj"};
    config_.base_model = "base/dir";
    tensors_ = {{lora_a_name(kModule), {2, 3}, a_}, {lora_b_name(kModule), {5, 2}, b_}};
  }
  std::filesystem::path dir() const { return scratch_ / "adapter"; }
  std::filesystem::path config_path() const { return dir() / "adapter_config.json"; }
  void write() { write_adapter(dir(), config_, tensors_); }

  // Writes a valid adapter, then replaces one key of its configuration.
  void set_key(const std::string& key, const json& value) {
    write();
    json config = json::parse(read_file(config_path()));
    config[key] = value;
    testing::write_text(config_path(), config.dump());
  }
  void refused(const std::string& key, const json& value, std::vector<std::string> parts) {
    set_key(key, value);
    parts.insert(parts.end(), {"adapter_config.json", key});
    expect_data_error([&] { PeftAdapter::open(dir()); }, parts);
  }
  // Replaces the weight file.
  void refused_tensors(const std::vector<TensorToWrite>& tensors,
                       const std::vector<std::string>& parts) {
    write();
    write_safetensors(dir() / "adapter_model.safetensors", tensors);
    expect_data_error([&] { PeftAdapter::open(dir()); }, parts);
  }

  testing::ScratchDirectory scratch_;
  AdapterConfig config_;
  std::vector<float> a_, b_;
  std::vector<AdapterTensor> tensors_;
};

TEST_F(PeftAdapterTest, RoundTrip) {
  write();
  const PeftAdapter adapter = PeftAdapter::open(dir());
  EXPECT_EQ(adapter.config().r, 2);
  EXPECT_EQ(adapter.config().alpha, 4.0);
  EXPECT_EQ(adapter.config().dropout, 0.1);
  EXPECT_EQ(adapter.config().targets, config_.targets);
  EXPECT_EQ(adapter.config().base_model, "base/dir");
  ASSERT_EQ(adapter.modules().size(), 1u);  // v_proj is a target that this base does not have
  const AdapterModule& module = adapter.modules()[0];
  EXPECT_EQ(module.name, kModule);
  EXPECT_EQ(module.a->name, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
  EXPECT_EQ(module.b->shape, (std::vector<int64_t>{5, 2}));
  std::vector<float> b(10);
  adapter.read_elements(*module.b, 0, 10, b.data(), TargetType::kFloat32);
  EXPECT_EQ(b, b_);
}

TEST_F(PeftAdapterTest, ModulesSurviveAMove) {
  write();
  PeftAdapter first = PeftAdapter::open(dir());
  const PeftAdapter second = std::move(first);
  float value = 0;
  second.read_elements(*second.modules()[0].a, 0, 1, &value, TargetType::kFloat32);
  EXPECT_EQ(value, 0.5f);
}

TEST_F(PeftAdapterTest, WholeAlphaIsAnIntegerInTheFile) {
  write();
  EXPECT_TRUE(json::parse(read_file(config_path()))["lora_alpha"].is_number_integer());
  config_.alpha = 0.5;
  write();
  EXPECT_EQ(PeftAdapter::open(dir()).config().alpha, 0.5);
}

TEST_F(PeftAdapterTest, FeaturesBeyondPlainLoraAreRefused) {
  refused("peft_type", "IA3", {"LORA", "IA3"});
  refused("use_rslora", true, {"true", "not supported"});
  refused("use_dora", true, {"not supported"});
  refused("rank_pattern", {{"q_proj", 4}}, {"not supported"});
  refused("alpha_pattern", {{"q_proj", 4}}, {"not supported"});
  refused("modules_to_save", json::array({"lm_head"}), {"lm_head", "not supported"});
  refused("fan_in_fan_out", true, {"not supported"});
  refused("layers_to_transform", json::array({0}), {"not supported"});
  refused("lora_bias", true, {"not supported"});
  refused("bias", "all", {"none", "all"});
  refused("init_lora_weights", "pissa", {"base unchanged", "pissa"});
  refused("a_feature_of_2030", {{"x", 1}}, {"not supported"});
}

TEST_F(PeftAdapterTest, SwitchedOffFeaturesAndHarmlessKeysAreAccepted) {
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, json>>{{"use_dora", false},
                                                 {"rank_pattern", json::object()},
                                                 {"layers_to_transform", nullptr},
                                                 {"a_feature_of_2030", false},
                                                 {"peft_version", "0.99"},
                                                 {"init_lora_weights", "gaussian"},
                                                 {"qalora_group_size", 16}}) {
    set_key(key, value);
    EXPECT_NO_THROW(PeftAdapter::open(dir())) << key;
  }
}

TEST_F(PeftAdapterTest, ValuesOutOfRange) {
  refused("r", 0, {"positive integer", "0"});
  refused("r", 2.5, {"integer", "2.5"});
  refused("r", nullptr, {"positive integer"});
  refused("lora_alpha", -1, {"positive number", "-1"});
  refused("lora_dropout", 1.0, {"[0, 1)"});
  refused("target_modules", ".*proj", {"no regular expression", ".*proj"});
  refused("target_modules", json::array(), {"non-empty"});
  refused("target_modules", json::array({"self_attn.q_proj"}), {"without dots"});
}

TEST_F(PeftAdapterTest, TensorsMustBePairsOfFactorsOnTargets) {
  const auto factor = [&](const std::string& name, std::vector<int64_t> shape) {
    return tensor_in_memory(name, DType::kF32, std::move(shape), b_.data());
  };
  const TensorToWrite a = factor(lora_a_name(kModule), {2, 3});
  const TensorToWrite b = factor(lora_b_name(kModule), {5, 2});
  refused_tensors({a}, {kModule, "lacks its lora_B"});
  refused_tensors({b}, {kModule, "lacks its lora_A"});
  refused_tensors({}, {"no LoRA factors"});
  refused_tensors({a, b, factor("base_model.model.lm_head.weight", {1})},
                  {"lm_head.weight", "not a LoRA factor"});
  refused_tensors({a, factor(lora_b_name(kModule), {2, 5})}, {"[out, 2]", "found F32 [2, 5]"});
  refused_tensors({factor(lora_a_name(kModule), {3, 2}), b}, {"[2, in]", "found F32 [3, 2]"});
  refused_tensors({factor(lora_a_name(kModule), {2}), b}, {"found F32 [2]"});
  refused_tensors({factor(lora_a_name("model.layers.0.mlp.up_proj"), {2, 3})},
                  {"up_proj", "target_modules"});
}

TEST_F(PeftAdapterTest, MissingAndPickledFiles) {
  expect_data_error([&] { PeftAdapter::open(dir()); }, {"adapter_config.json", "missing"});
  write();
  std::filesystem::rename(dir() / "adapter_model.safetensors", dir() / "adapter_model.bin");
  expect_data_error([&] { PeftAdapter::open(dir()); },
                    {"adapter_model.safetensors", "adapter_model.bin is a pickle file"});
}

TEST_F(PeftAdapterTest, WrongTensorsAreNotWritten) {
  tensors_[0].name = "q_proj.lora_A.weight";
  EXPECT_THROW(write(), std::logic_error);
  tensors_[0] = {lora_a_name(kModule), {3, 2}, a_};
  EXPECT_THROW(write(), std::logic_error);
  tensors_[0] = {lora_a_name(kModule), {2, 4}, a_};
  EXPECT_THROW(write(), std::logic_error);
  EXPECT_TRUE(list_directory(scratch_.path()).empty());
}

TEST_F(PeftAdapterTest, FullDiskKeepsTheOldAdapter) {
  write();
  const std::vector<float> large(100'000);
  tensors_[0] = {lora_a_name(kModule), {2, 50'000}, large};
  const std::string outcome = testing::run_with_file_limit(100'000, [&] { write(); });
  EXPECT_NE(outcome.find("WriteError"), std::string::npos) << outcome;
  EXPECT_NE(outcome.find("adapter/adapter_model.safetensors: cannot write 400"), std::string::npos)
      << outcome;
  EXPECT_EQ(PeftAdapter::open(dir()).modules()[0].a->shape[1], 3);
  EXPECT_EQ(list_directory(scratch_.path()), (std::vector<std::string>{"adapter"}));
}

}  // namespace
}  // namespace vax::io
