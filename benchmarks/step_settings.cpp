#include <charconv>
#include <functional>
#include <map>

#include "base/error.h"
#include "model/decoder/layout.h"
#include "model/families/llama.h"
#include "step_engine.h"

namespace vax::benchmarks {
namespace {

template <typename Number>
Number to_number(const std::string& name, const std::string& text) {
  Number value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < 0)
    throw ConfigError(cat(name, ": expected a number >= 0, found ", text));
  return value;
}

using Setter = std::function<void(const std::string& name, const std::string& value)>;

Setter one_of(std::string& to, const std::vector<std::string>& choices) {
  return [&to, choices](const std::string& name, const std::string& value) {
    for (const std::string& choice : choices)
      if (value == choice) {
        to = value;
        return;
      }
    throw ConfigError(cat(name, ": unknown value ", value));
  };
}

template <typename Number>
Setter number(Number& to) {
  return [&to](const std::string& name, const std::string& value) {
    to = to_number<Number>(name, value);
  };
}

Setter on_off(bool& to) {
  return [&to](const std::string& name, const std::string& value) {
    if (value != "on" && value != "off") throw ConfigError(cat(name, ": expected on or off"));
    to = value == "on";
  };
}

void check(const StepSettings& settings) {
  const bool positive = settings.sequences > 0 && settings.rounds > 0 && settings.threads > 0;
  if (!positive) throw ConfigError("--sequences, --rounds, --threads: expected at least 1");
  if (settings.labels < 1 || settings.labels >= settings.tokens)
    throw ConfigError(cat("--labels: expected 1 to --tokens - 1 = ", settings.tokens - 1,
                          ", found ", settings.labels));
}

}  // namespace

StepSettings parse_settings(const std::vector<std::string>& arguments) {
  StepSettings s;
  const std::map<std::string, Setter> setters = {
      {"--model", one_of(s.model, {"toy", "134m", "7b", "13b"})},
      {"--layers", number(s.layers)},
      {"--adapter", one_of(s.adapter, {"lora", "full"})},
      {"--dtype", one_of(s.dtype, {"fp32", "bf16"})},
      {"--probe", one_of(s.probe, {"same", "bf16", "fp8"})},
      {"--recompute", one_of(s.recompute, {"none", "pass2", "all"})},
      {"--graphs", on_off(s.graphs)},
      {"--sequences", number(s.sequences)},
      {"--tokens", number(s.tokens)},
      {"--labels", number(s.labels)},
      {"--rounds", number(s.rounds)},
      {"--warmup", number(s.warmup)},
      {"--threads", number(s.threads)},
      {"--device", one_of(s.device, {"auto", "cpu", "cuda"})},
      {"--peak-tflops", number(s.peak_tflops)}};
  for (size_t i = 0; i < arguments.size(); i += 2) {
    const auto found = setters.find(arguments[i]);
    if (found == setters.end()) throw ConfigError(cat("unknown option ", arguments[i]));
    if (i + 1 == arguments.size()) throw ConfigError(cat(arguments[i], ": a value is missing"));
    found->second(arguments[i], arguments[i + 1]);
  }
  check(s);
  return s;
}

model::Spec model_config(const StepSettings& settings) {
  struct Shape {
    int64_t hidden, ffn, layers, heads, vocab;
  };
  const std::map<std::string, Shape> shapes = {{"toy", {64, 176, 2, 4, 512}},
                                               {"134m", {768, 2048, 12, 12, 32000}},
                                               {"7b", {4096, 11008, 32, 32, 32000}},
                                               {"13b", {5120, 13824, 40, 40, 32000}}};
  const Shape& shape = shapes.at(settings.model);
  return {.vocab_size = shape.vocab,
          .hidden_size = shape.hidden,
          .intermediate_size = shape.ffn,
          .num_layers = settings.layers > 0 ? settings.layers : shape.layers,
          .num_heads = shape.heads,
          .num_kv_heads = shape.heads,
          .head_dim = shape.hidden / shape.heads,
          .max_positions = 4096,
          .names = model::llama_names()};
}

PackedBatch make_batch(const StepSettings& settings, int64_t vocab_size) {
  PackedBatch batch;
  batch.offsets.push_back(0);
  for (int64_t s = 0; s < settings.sequences; ++s) {
    for (int64_t t = 0; t < settings.tokens; ++t) {
      batch.ids.push_back((s * 977 + t * 131 + 7) % vocab_size);
      batch.positions.push_back(static_cast<int32_t>(t));
      batch.rows.push_back(static_cast<int32_t>(s));
      if (t >= settings.tokens - settings.labels) {
        batch.label_positions.push_back(s * settings.tokens + t - 1);
        batch.targets.push_back(batch.ids.back());
      }
    }
    batch.offsets.push_back(static_cast<int32_t>(batch.ids.size()));
  }
  return batch;
}

StepFlop count_flop(const StepSettings& settings, const model::Spec& config,
                    const PackedBatch& batch) {
  const auto tokens = static_cast<double>(batch.num_tokens());
  double blocks = 0;
  for (const FlatUnit& unit : model::base_layout(config))
    for (const FlatGroup& group : unit.groups)
      if (group.shape.size() == 2 && group.role != model::kEmbedding && group.role != model::kHead)
        blocks += static_cast<double>(group.count);
  const double head =
      static_cast<double>(config.vocab_size * config.hidden_size * batch.num_labels());
  const double attention = static_cast<double>(config.num_layers * config.hidden_size) * tokens *
                           static_cast<double>(settings.tokens);  // both products, causal half
  const double once = 2 * (blocks * tokens + head) + 2 * attention;
  return {.forward = once,
          .input_gradient = once + 2 * attention,
          .weight_gradient = settings.lora() ? 0 : 2 * (blocks * tokens + head)};
}

}  // namespace vax::benchmarks
