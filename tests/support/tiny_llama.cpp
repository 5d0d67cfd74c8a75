#include "support/tiny_llama.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "base/narrow.h"
#include "base/philox.h"
#include "dist/comm/backend.h"
#include "io/huggingface_writer.h"
#include "io/peft_adapter.h"
#include "io/safetensors_writer.h"
#include "model/decoder/layout.h"
#include "model/families/built_in.h"
#include "model/families/llama.h"

namespace vax::testing {
namespace {

at::Tensor normal_values(const FlatMember& member, uint64_t seed) {
  at::Tensor values = at::empty(member.shape, at::kFloat);
  float* const data = values.data_ptr<float>();
  const PhiloxKey key = philox_key(seed, hash_name(member.name));
  for (int64_t i = 0; i < member.count; ++i) {
    const PhiloxCounter bits = philox4x32({narrow<uint32_t>(i), 0, 0, 0}, key);
    data[i] = normal_pair(bits[0], bits[1])[0];
  }
  return values;
}

class LonelyBackend final : public dist::Backend {
 public:
  LonelyBackend(int rank, int size) : rank_(rank), size_(size) {}
  dist::GroupTraits traits() const override {
    return {.name = "lonely", .rank = rank_, .size = size_};
  }
  dist::Work start(dist::Operation) override { fail(); }
  void barrier(dist::Call) override { fail(); }

 private:
  [[noreturn]] static void fail() { throw std::logic_error("a rank without a group communicates"); }
  const int rank_, size_;
};

void write_adapter(const std::filesystem::path& directory, const model::Spec& config,
                   const model::LoraSpec& lora, const NamedTensors& tensors) {
  std::vector<io::AdapterTensor> to_write;
  for (const auto& [name, tensor] : tensors)
    to_write.push_back(
        {.name = name,
         .shape = tensor.sizes().vec(),
         .data = {tensor.const_data_ptr<float>(), static_cast<size_t>(tensor.numel())}});
  io::write_adapter(
      directory, {.r = lora.r, .alpha = lora.alpha, .targets = model::target_names(config, lora)},
      to_write);
}

}  // namespace

model::Spec tiny_config(bool tied) {
  return {.vocab_size = 37,
          .hidden_size = 20,
          .intermediate_size = 28,
          .num_layers = 3,
          .num_heads = 4,
          .num_kv_heads = 2,
          .head_dim = 6,
          .max_positions = 16,
          .tied_head = tied,
          .biases = {.qkv = true, .attention_out = true},
          .family = "Llama",
          .names = model::llama_names()};
}

model::LoraSpec tiny_lora() {
  return model::make_lora_spec(tiny_config(), 3, 4, {"q_proj", "v_proj", "o_proj", "down_proj"});
}

NamedTensors tiny_tensors(const FlatLayout& layout, uint64_t seed) {
  NamedTensors tensors;
  for (const FlatUnit& unit : layout)
    for (const FlatGroup& group : unit.groups)
      for (const FlatMember& member : group.members) {
        const bool is_norm =
            member.name.find("norm") != std::string::npos && member.name.ends_with(".weight");
        const at::Tensor values = normal_values(member, seed);
        tensors[member.name] = is_norm ? 1 + 0.1 * values : 0.2 * values;
      }
  return tensors;
}

void write_model(const std::filesystem::path& directory, const std::string& config_json,
                 const NamedTensors& tensors) {
  std::vector<io::TensorToWrite> to_write;
  for (const auto& [name, tensor] : tensors) {
    const bool is_integer = tensor.scalar_type() == at::kLong;
    to_write.push_back(io::tensor_in_memory(name, is_integer ? io::DType::kI64 : io::DType::kF32,
                                            tensor.sizes().vec(), tensor.const_data_ptr()));
  }
  io::write_huggingface_directory(directory, {.config_json = config_json, .tensors = to_write});
}

void write_tiny_model(const std::filesystem::path& directory, const model::Spec& config,
                      const NamedTensors& tensors) {
  write_model(
      directory,
      model::llama_family().write(
          config, {.torch_dtype = "float32", .bos_id = 1, .eos_id = 2, .initializer_range = 0.02}),
      tensors);
}

void write_tiny_model(const std::filesystem::path& directory, const model::Spec& config,
                      uint64_t seed) {
  write_tiny_model(directory, config, tiny_tensors(model::base_layout(config), seed));
}

model::Spec read_tiny_spec(const std::filesystem::path& directory) {
  return model::built_in_families().read(directory / "config.json");
}

void write_tiny_adapter(const std::filesystem::path& directory, const model::LoraSpec& spec,
                        const NamedTensors& tensors) {
  write_adapter(directory, tiny_config(), spec, tensors);
}

void write_tiny_adapter(const std::filesystem::path& directory, const model::Spec& config,
                        const model::LoraSpec& spec, uint64_t seed) {
  write_adapter(directory, config, spec, tiny_tensors(model::lora_layout(config, spec), seed));
}

data::Dataset tiny_dataset(const model::Spec& config, int64_t num_rows) {
  data::Dataset dataset;
  for (int64_t row = 0; row < num_rows; ++row) {
    data::Sample sample;
    const int64_t size = 3 + (row * 5) % 7;
    for (int64_t i = 0; i < size; ++i)
      sample.ids.push_back((7 * row + 11 * i + row * i * i) % config.vocab_size);
    sample.label_begin = row == 1 ? size : 1 + row % 2;
    dataset.samples.push_back(std::move(sample));
  }
  return dataset;
}

train::Mesh make_self_mesh() {
  return {.world = dist::make_self_collectives(),
          .frozen = dist::make_self_collectives(),
          .trainable = dist::make_self_collectives(),
          .probe = dist::make_self_collectives(),
          .reduce = dist::make_self_collectives(),
          .replicas = dist::make_self_collectives(),
          .calls = dist::CallLog::make(0)};
}

LonelyRank::LonelyRank(int rank, int size)
    : Collectives(std::make_unique<LonelyBackend>(rank, size), nullptr) {}

SharedDirectory::SharedDirectory(const dist::Communicator& world,
                                 const std::function<void(const std::filesystem::path&)>& fill) {
  if (world.rank() == 0) {
    owned_.emplace();
    fill(owned_->path());
  }
  path_ = world.broadcast_text(owned_ ? owned_->path().string() : "", 0);
}

}  // namespace vax::testing
