#include "support/toy_family.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/decoder/layout.h"

namespace vax::testing {
namespace {

using model::MlpKind;

model::Spec parts() {
  return {.norm = model::NormKind::kLayer,
          .norm_eps = 1e-5,
          .mlp = MlpKind::kGelu,
          .biases = {.qkv = false, .attention_out = true, .up = true, .down = false},
          .family = "Toy",
          .names = {.embedding = "decoder.tokens",
                    .blocks = "decoder.blocks",
                    .attention_norm = "norm_1",
                    .mlp_norm = "norm_2",
                    .linears = {"attention.query", "attention.key", "attention.value",
                                "attention.out", "", "mlp.up", "mlp.down"},
                    .final_norm = "decoder.norm",
                    .head = "answer"}};
}

model::Spec read_toy(const model::ConfigReader& config) {
  model::Spec spec = parts();
  spec.vocab_size = config.integer("vocab_size", 1);
  spec.hidden_size = config.integer("hidden_size", 1);
  spec.intermediate_size = config.integer("ffn_size", 1);
  spec.num_layers = config.integer("num_layers", 1);
  spec.num_heads = config.integer("num_heads", 1);
  spec.num_kv_heads = config.integer("num_kv_heads", 1);
  spec.head_dim = config.integer("head_dim", 2);
  spec.max_positions = config.integer("max_positions", 1);
  spec.tied_head = config.boolean_or("tied_head", false);
  const std::string activation = config.text_or("activation", "gelu");
  if (activation != "gelu" && activation != "relu")
    config.fail("activation", "\"gelu\" or \"relu\"");
  spec.mlp = activation == "relu" ? MlpKind::kRelu : MlpKind::kGelu;
  return spec;
}

std::string write_toy(const model::Spec& spec, const model::ConfigNotes& notes) {
  const nlohmann::json config = {{"model_type", "toy"},
                                 {"vocab_size", spec.vocab_size},
                                 {"hidden_size", spec.hidden_size},
                                 {"ffn_size", spec.intermediate_size},
                                 {"num_layers", spec.num_layers},
                                 {"num_heads", spec.num_heads},
                                 {"num_kv_heads", spec.num_kv_heads},
                                 {"head_dim", spec.head_dim},
                                 {"max_positions", spec.max_positions},
                                 {"tied_head", spec.tied_head},
                                 {"activation", spec.mlp == MlpKind::kRelu ? "relu" : "gelu"},
                                 {"torch_dtype", notes.torch_dtype}};
  return config.dump(2) + "\n";
}

model::Spec design_toy(const InitOptions& options) {
  model::Spec spec = parts();
  spec.vocab_size = options.vocab_size;
  spec.hidden_size = options.hidden_size;
  spec.intermediate_size = options.intermediate_size;
  spec.num_layers = options.num_hidden_layers;
  spec.num_heads = options.num_attention_heads;
  spec.num_kv_heads = options.num_key_value_heads.value_or(spec.num_heads);
  spec.head_dim = options.head_dim.value_or(spec.hidden_size / spec.num_heads);
  spec.max_positions = options.max_position_embeddings;
  return spec;
}

}  // namespace

model::Family toy_family() {
  return {.model_type = "toy", .read = read_toy, .write = write_toy, .design = design_toy};
}

model::Spec toy_spec(bool tied, MlpKind mlp) {
  const model::Spec sizes = tiny_config(tied);
  model::Spec spec = parts();
  spec.vocab_size = sizes.vocab_size;
  spec.hidden_size = sizes.hidden_size;
  spec.intermediate_size = sizes.intermediate_size;
  spec.num_layers = sizes.num_layers;
  spec.num_heads = sizes.num_heads;
  spec.num_kv_heads = sizes.num_kv_heads;
  spec.head_dim = sizes.head_dim;
  spec.max_positions = sizes.max_positions;
  spec.tied_head = tied;
  spec.mlp = mlp;
  return spec;
}

void write_toy_model(const std::filesystem::path& directory, const model::Spec& spec,
                     uint64_t seed) {
  write_model(directory, write_toy(spec, {.torch_dtype = "float32"}),
              tiny_tensors(model::base_layout(spec), seed));
}

}  // namespace vax::testing
