#include "model/llama_config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/atomic_file.h"
#include "base/error.h"

namespace vax::model {
namespace {

using nlohmann::json;

// Typed access to one JSON object of a configuration file; every failure names file and key.
class Reader {
 public:
  Reader(const json& object, std::string path) : object_(object), path_(std::move(path)) {}

  [[noreturn]] void fail(const std::string& key, const std::string& expected) const {
    const std::string found = object_.contains(key) ? object_.at(key).dump() : "nothing";
    throw DataError(cat(path_, ": \"", key, "\": expected ", expected, ", found ", found));
  }
  bool has(const std::string& key) const {
    return object_.contains(key) && !object_.at(key).is_null();
  }
  int64_t integer(const std::string& key, int64_t smallest) const {
    if (!has(key) || !object_.at(key).is_number_integer()) fail(key, "an integer");
    const auto value = object_.at(key).get<int64_t>();
    constexpr int64_t kLargest = int64_t{1} << 31;
    if (value < smallest || value > kLargest)
      fail(key, cat("an integer in [", smallest, ", 2^31]"));
    return value;
  }
  int64_t integer_or(const std::string& key, int64_t smallest, int64_t fallback) const {
    return has(key) ? integer(key, smallest) : fallback;
  }
  double positive_or(const std::string& key, double fallback) const {
    if (!has(key)) return fallback;
    if (!object_.at(key).is_number() || !(object_.at(key).get<double>() > 0))
      fail(key, "a positive number");
    return object_.at(key).get<double>();
  }
  bool boolean_or(const std::string& key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!object_.at(key).is_boolean()) fail(key, "true or false");
    return object_.at(key).get<bool>();
  }
  std::string text_or(const std::string& key, const std::string& fallback) const {
    if (!has(key)) return fallback;
    if (!object_.at(key).is_string()) fail(key, "a string");
    return object_.at(key).get<std::string>();
  }
  // The nested object `key`, an empty one when absent.
  Reader nested(const std::string& key) const {
    static const json kEmpty = json::object();
    if (!has(key)) return {kEmpty, path_};
    if (!object_.at(key).is_object()) fail(key, "an object");
    return {object_.at(key), cat(path_, ": \"", key, "\"")};
  }
  const std::string& path() const { return path_; }

 private:
  const json& object_;
  std::string path_;
};

RotaryScaling read_scaling(const Reader& reader, int64_t max_positions) {
  RotaryScaling scaling;
  scaling.type = reader.text_or("rope_type", reader.text_or("type", "default"));
  if (scaling.type == "default") return scaling;
  if (scaling.type != "linear" && scaling.type != "llama3")
    reader.fail(reader.has("rope_type") ? "rope_type" : "type",
                "\"default\", \"linear\" or \"llama3\"");
  scaling.factor = reader.positive_or("factor", 1);
  scaling.low_freq_factor = reader.positive_or("low_freq_factor", 1);
  scaling.high_freq_factor = reader.positive_or("high_freq_factor", 4);
  scaling.original_max_position_embeddings =
      reader.integer_or("original_max_position_embeddings", 1, max_positions);
  if (scaling.type == "llama3" && scaling.high_freq_factor <= scaling.low_freq_factor)
    reader.fail("high_freq_factor", "a number above low_freq_factor");
  return scaling;
}

void check_architecture(const Reader& reader) {
  if (reader.text_or("model_type", "nothing") != "llama") reader.fail("model_type", "\"llama\"");
  if (reader.text_or("hidden_act", "silu") != "silu") reader.fail("hidden_act", "\"silu\"");
}

void check_heads(const Reader& reader, const LlamaConfig& config) {
  if (config.num_heads % config.num_kv_heads != 0)
    reader.fail("num_key_value_heads",
                cat("a divisor of num_attention_heads = ", config.num_heads));
  if (config.head_dim % 2 != 0)
    throw DataError(
        cat(reader.path(), ": head dimension: expected an even number, found ", config.head_dim));
}

}  // namespace

LlamaConfig parse_llama_config(const std::string& json_text, const std::string& path) {
  json object;
  try {
    object = json::parse(json_text);
  } catch (const json::exception& e) {
    throw DataError(cat(path, ": not valid JSON: ", e.what()));
  }
  if (!object.is_object()) throw DataError(cat(path, ": expected a JSON object"));
  const Reader reader(object, path);
  check_architecture(reader);

  LlamaConfig config;
  config.vocab_size = reader.integer("vocab_size", 1);
  config.hidden_size = reader.integer("hidden_size", 1);
  config.intermediate_size = reader.integer("intermediate_size", 1);
  config.num_layers = reader.integer("num_hidden_layers", 1);
  config.num_heads = reader.integer("num_attention_heads", 1);
  config.num_kv_heads = reader.integer_or("num_key_value_heads", 1, config.num_heads);
  if (!reader.has("head_dim") && config.hidden_size % config.num_heads != 0)
    reader.fail("hidden_size", cat("a multiple of num_attention_heads = ", config.num_heads));
  config.head_dim = reader.integer_or("head_dim", 1, config.hidden_size / config.num_heads);
  check_heads(reader, config);
  config.max_position_embeddings = reader.integer_or("max_position_embeddings", 1, 2048);
  config.rms_norm_eps = reader.positive_or("rms_norm_eps", 1e-6);
  config.tie_word_embeddings = reader.boolean_or("tie_word_embeddings", false);
  config.attention_bias = reader.boolean_or("attention_bias", false);
  config.mlp_bias = reader.boolean_or("mlp_bias", false);

  const Reader parameters = reader.nested("rope_parameters");
  config.rope_theta = parameters.positive_or("rope_theta", reader.positive_or("rope_theta", 10000));
  const Reader scaling = reader.has("rope_parameters") ? parameters : reader.nested("rope_scaling");
  config.rope_scaling = read_scaling(scaling, config.max_position_embeddings);
  return config;
}

LlamaConfig read_llama_config(const std::filesystem::path& path) {
  return parse_llama_config(read_file(path), path.string());
}

std::string to_config_json(const LlamaConfig& config, const std::string& torch_dtype,
                           int64_t bos_id, int64_t eos_id, double initializer_range) {
  json object = {{"architectures", {"LlamaForCausalLM"}},
                 {"model_type", "llama"},
                 {"hidden_act", "silu"},
                 {"vocab_size", config.vocab_size},
                 {"hidden_size", config.hidden_size},
                 {"intermediate_size", config.intermediate_size},
                 {"num_hidden_layers", config.num_layers},
                 {"num_attention_heads", config.num_heads},
                 {"num_key_value_heads", config.num_kv_heads},
                 {"head_dim", config.head_dim},
                 {"max_position_embeddings", config.max_position_embeddings},
                 {"rms_norm_eps", config.rms_norm_eps},
                 {"rope_theta", config.rope_theta},
                 {"tie_word_embeddings", config.tie_word_embeddings},
                 {"attention_bias", config.attention_bias},
                 {"mlp_bias", config.mlp_bias},
                 {"initializer_range", initializer_range},
                 {"bos_token_id", bos_id},
                 {"eos_token_id", eos_id},
                 {"torch_dtype", torch_dtype}};
  const RotaryScaling& scaling = config.rope_scaling;
  if (scaling.type != "default") {
    object["rope_scaling"] = {{"rope_type", scaling.type}, {"factor", scaling.factor}};
    if (scaling.type == "llama3") {
      object["rope_scaling"]["low_freq_factor"] = scaling.low_freq_factor;
      object["rope_scaling"]["high_freq_factor"] = scaling.high_freq_factor;
      object["rope_scaling"]["original_max_position_embeddings"] =
          scaling.original_max_position_embeddings;
    }
  }
  return object.dump(2) + "\n";
}

LlamaConfig make_llama_config(const InitOptions& options) {
  LlamaConfig config;
  config.vocab_size = options.vocab_size;
  config.hidden_size = options.hidden_size;
  config.intermediate_size = options.intermediate_size;
  config.num_layers = options.num_hidden_layers;
  config.num_heads = options.num_attention_heads;
  config.num_kv_heads = options.num_key_value_heads.value_or(options.num_attention_heads);
  if (!options.head_dim && options.hidden_size % options.num_attention_heads != 0)
    throw ConfigError(cat("init.hidden_size: expected a multiple of init.num_attention_heads = ",
                          options.num_attention_heads, ", found ", options.hidden_size));
  config.head_dim = options.head_dim.value_or(options.hidden_size / options.num_attention_heads);
  config.max_position_embeddings = options.max_position_embeddings;
  config.rms_norm_eps = options.rms_norm_eps;
  config.rope_theta = options.rope_theta;
  config.tie_word_embeddings = options.tie_word_embeddings;
  config.attention_bias = options.attention_bias;
  if (config.num_heads % config.num_kv_heads != 0)
    throw ConfigError(
        cat("init.num_key_value_heads: expected a divisor of "
            "init.num_attention_heads = ",
            config.num_heads, ", found ", config.num_kv_heads));
  if (config.head_dim % 2 != 0)
    throw ConfigError(cat("init.head_dim: expected an even number, found ", config.head_dim));
  return config;
}

std::vector<float> rotary_frequencies(const LlamaConfig& config) {
  const RotaryScaling& scaling = config.rope_scaling;
  const auto factor = static_cast<float>(scaling.factor);
  std::vector<float> frequencies;
  for (int64_t i = 0; i < config.head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(config.head_dim);
    float frequency = 1.0f / std::pow(static_cast<float>(config.rope_theta), exponent);
    if (scaling.type == "linear") frequency /= factor;
    if (scaling.type == "llama3") {
      // Long wavelengths are stretched by `factor`, short ones kept, those between interpolated.
      const auto old_length = static_cast<float>(scaling.original_max_position_embeddings);
      const auto low = static_cast<float>(scaling.low_freq_factor);
      const auto high = static_cast<float>(scaling.high_freq_factor);
      const float wavelength = 2.0f * std::numbers::pi_v<float> / frequency;
      const float smooth = (old_length / wavelength - low) / (high - low);
      if (wavelength > old_length / low) {
        frequency /= factor;
      } else if (wavelength >= old_length / high) {
        frequency = (1.0f - smooth) * frequency / factor + smooth * frequency;
      }
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

}  // namespace vax::model
