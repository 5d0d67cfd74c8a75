#include "model/families/llama.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace vax::model {
namespace {

using nlohmann::json;

RotaryScaling read_scaling(const ConfigReader& reader, int64_t max_positions) {
  RotaryScaling scaling;
  const std::string type = reader.text_or("rope_type", reader.text_or("type", "default"));
  if (type == "default") return scaling;
  if (type != "linear" && type != "llama3")
    reader.fail(reader.has("rope_type") ? "rope_type" : "type",
                "\"default\", \"linear\" or \"llama3\"");
  scaling.kind = type == "linear" ? ScalingKind::kAll : ScalingKind::kLongWaves;
  scaling.factor = reader.positive_or("factor", 1);
  scaling.low_freq_factor = reader.positive_or("low_freq_factor", 1);
  scaling.high_freq_factor = reader.positive_or("high_freq_factor", 4);
  scaling.original_max_positions =
      reader.integer_or("original_max_position_embeddings", 1, max_positions);
  if (scaling.kind == ScalingKind::kLongWaves &&
      scaling.high_freq_factor <= scaling.low_freq_factor)
    reader.fail("high_freq_factor", "a number above low_freq_factor");
  return scaling;
}

void check_heads(const ConfigReader& config, const Spec& spec) {
  if (spec.num_heads % spec.num_kv_heads != 0)
    config.fail("num_key_value_heads", cat("a divisor of num_attention_heads = ", spec.num_heads));
  if (spec.head_dim % 2 != 0)
    throw DataError(
        cat(config.path(), ": head dimension: expected an even number, found ", spec.head_dim));
}

// What is the same for every Llama.
Spec new_spec() { return {.family = "Llama", .names = llama_names()}; }

Spec read_llama(const ConfigReader& config) {
  if (config.text_or("hidden_act", "silu") != "silu") config.fail("hidden_act", "\"silu\"");
  Spec spec = new_spec();
  spec.vocab_size = config.integer("vocab_size", 1);
  spec.hidden_size = config.integer("hidden_size", 1);
  spec.intermediate_size = config.integer("intermediate_size", 1);
  spec.num_layers = config.integer("num_hidden_layers", 1);
  spec.num_heads = config.integer("num_attention_heads", 1);
  spec.num_kv_heads = config.integer_or("num_key_value_heads", 1, spec.num_heads);
  if (!config.has("head_dim") && spec.hidden_size % spec.num_heads != 0)
    config.fail("hidden_size", cat("a multiple of num_attention_heads = ", spec.num_heads));
  spec.head_dim = config.integer_or("head_dim", 1, spec.hidden_size / spec.num_heads);
  check_heads(config, spec);
  spec.max_positions = config.integer_or("max_position_embeddings", 1, 2048);
  spec.norm_eps = config.positive_or("rms_norm_eps", 1e-6);
  spec.tied_head = config.boolean_or("tie_word_embeddings", false);
  spec.biases.qkv = spec.biases.attention_out = config.boolean_or("attention_bias", false);
  spec.biases.up = spec.biases.down = config.boolean_or("mlp_bias", false);

  const ConfigReader parameters = config.nested("rope_parameters");
  spec.rope_theta = parameters.positive_or("rope_theta", config.positive_or("rope_theta", 10000));
  spec.rope_scaling =
      read_scaling(config.has("rope_parameters") ? parameters : config.nested("rope_scaling"),
                   spec.max_positions);
  return spec;
}

std::string write_llama(const Spec& spec, const ConfigNotes& notes) {
  json object = {{"architectures", {"LlamaForCausalLM"}},
                 {"model_type", "llama"},
                 {"hidden_act", "silu"},
                 {"vocab_size", spec.vocab_size},
                 {"hidden_size", spec.hidden_size},
                 {"intermediate_size", spec.intermediate_size},
                 {"num_hidden_layers", spec.num_layers},
                 {"num_attention_heads", spec.num_heads},
                 {"num_key_value_heads", spec.num_kv_heads},
                 {"head_dim", spec.head_dim},
                 {"max_position_embeddings", spec.max_positions},
                 {"rms_norm_eps", spec.norm_eps},
                 {"rope_theta", spec.rope_theta},
                 {"tie_word_embeddings", spec.tied_head},
                 {"attention_bias", spec.biases.qkv},
                 {"mlp_bias", spec.biases.up},
                 {"initializer_range", notes.initializer_range},
                 {"bos_token_id", notes.bos_id},
                 {"eos_token_id", notes.eos_id},
                 {"torch_dtype", notes.torch_dtype}};
  const RotaryScaling& scaling = spec.rope_scaling;
  if (scaling.kind != ScalingKind::kNone) {
    const bool long_waves = scaling.kind == ScalingKind::kLongWaves;
    object["rope_scaling"] = {{"rope_type", long_waves ? "llama3" : "linear"},
                              {"factor", scaling.factor}};
    if (long_waves) {
      object["rope_scaling"]["low_freq_factor"] = scaling.low_freq_factor;
      object["rope_scaling"]["high_freq_factor"] = scaling.high_freq_factor;
      object["rope_scaling"]["original_max_position_embeddings"] = scaling.original_max_positions;
    }
  }
  return object.dump(2) + "\n";
}

Spec design_llama(const InitOptions& options) {
  Spec spec = new_spec();
  spec.vocab_size = options.vocab_size;
  spec.hidden_size = options.hidden_size;
  spec.intermediate_size = options.intermediate_size;
  spec.num_layers = options.num_hidden_layers;
  spec.num_heads = options.num_attention_heads;
  spec.num_kv_heads = options.num_key_value_heads.value_or(options.num_attention_heads);
  if (!options.head_dim && options.hidden_size % options.num_attention_heads != 0)
    throw ConfigError(cat("init.hidden_size: expected a multiple of init.num_attention_heads = ",
                          options.num_attention_heads, ", found ", options.hidden_size));
  spec.head_dim = options.head_dim.value_or(options.hidden_size / options.num_attention_heads);
  spec.max_positions = options.max_position_embeddings;
  spec.norm_eps = options.rms_norm_eps;
  spec.rope_theta = options.rope_theta;
  spec.tied_head = options.tie_word_embeddings;
  spec.biases.qkv = spec.biases.attention_out = options.attention_bias;
  if (spec.num_heads % spec.num_kv_heads != 0)
    throw ConfigError(
        cat("init.num_key_value_heads: expected a divisor of "
            "init.num_attention_heads = ",
            spec.num_heads, ", found ", spec.num_kv_heads));
  if (spec.head_dim % 2 != 0)
    throw ConfigError(cat("init.head_dim: expected an even number, found ", spec.head_dim));
  return spec;
}

}  // namespace

Family llama_family() {
  return {.model_type = "llama", .read = read_llama, .write = write_llama, .design = design_llama};
}

ModuleNames llama_names() {
  return {.embedding = "model.embed_tokens",
          .blocks = "model.layers",
          .attention_norm = "input_layernorm",
          .mlp_norm = "post_attention_layernorm",
          .linears = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                      "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
          .final_norm = "model.norm",
          .head = "lm_head",
          // The copy of a tied head; a buffer of old checkpoints.
          .ignored = {"lm_head.weight", "*rotary_emb.inv_freq"}};
}

}  // namespace vax::model
