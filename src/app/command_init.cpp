// vaccine init: a Hugging Face model directory with random weights. Every number is a function of
// seed, parameter name and element, so the directory is the same whatever wrote it.

#include <algorithm>
#include <filesystem>
#include <span>
#include <vector>

#include "app/session.h"
#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"
#include "base/narrow.h"
#include "base/philox.h"
#include "base/stopwatch.h"
#include "data/tokenizer.h"
#include "io/huggingface_writer.h"
#include "model/init_options.h"
#include "model/model.h"
#include "ops/parallel.h"
#include "train/model_options.h"
#include "train/output_options.h"

namespace vax::app {
namespace {

constexpr int64_t kChunk = int64_t{1} << 20;  // elements generated at a time

enum class Start { kNormal, kOne, kZero };

Start start_of(const FlatMember& member) {
  if (member.name.ends_with(".bias")) return Start::kZero;
  return member.shape.size() == 1 ? Start::kOne : Start::kNormal;
}

// Elements [first, first + values.size()) of a tensor drawn from N(0, deviation). first % 4 == 0.
void draw_normal(std::span<float> values, int64_t first, PhiloxKey key, float deviation) {
  ops::parallel_for(
      0, ceil_div<int64_t>(narrow<int64_t>(values.size()), 4), 4096,
      [&](int64_t begin, int64_t end) {
        for (int64_t quad = begin; quad < end; ++quad) {
          const auto index = static_cast<uint64_t>(first / 4 + quad);
          const PhiloxCounter bits = philox4x32(
              {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0}, key);
          const auto low = normal_pair(bits[0], bits[1]);
          const auto high = normal_pair(bits[2], bits[3]);
          const float four[] = {low[0], low[1], high[0], high[1]};
          const auto at = static_cast<size_t>(4 * quad);
          for (size_t i = 0; i < 4 && at + i < values.size(); ++i)
            values[at + i] = deviation * four[i];
        }
      });
}

// Hands the tensor out in chunks of its stored type.
void write_random(const FlatMember& member, const InitOptions& options, bool bf16,
                  const io::ByteSink& sink) {
  const Start start = start_of(member);
  const PhiloxKey key = philox_key(options.seed, hash_name(member.name));
  std::vector<float> values;
  std::vector<uint16_t> halves;
  for (int64_t first = 0; first < member.count; first += kChunk) {
    values.assign(static_cast<size_t>(std::min(kChunk, member.count - first)),
                  start == Start::kOne ? 1.0f : 0.0f);
    if (start == Start::kNormal)
      draw_normal(values, first, key, static_cast<float>(options.initializer_range));
    if (!bf16) {
      sink(std::as_bytes(std::span(values)));
      continue;
    }
    halves.resize(values.size());
    std::ranges::transform(values, halves.begin(), io::bf16_from_float);
    sink(std::as_bytes(std::span(halves)));
  }
}

void write_model(const Options& options, const model::Families& families) {
  const Stopwatch watch;
  const std::filesystem::path tokenizer_path = options.get<InitOptions>().tokenizer_path;
  const data::Tokenizer tokenizer = data::Tokenizer::load(tokenizer_path);
  InitOptions init = options.get<InitOptions>();
  if (init.vocab_size == 0) init.vocab_size = tokenizer.vocab_size();
  if (init.vocab_size < tokenizer.vocab_size())
    throw ConfigError(cat("init.vocab_size: expected at least the tokenizer's ",
                          tokenizer.vocab_size(), " (", tokenizer_path.string(), "), found ",
                          init.vocab_size));
  const model::Spec spec = families.first().design(init);
  const FlatLayout layout = model::make_model(spec, {}, false, at::kFloat)->base_layout();
  const bool bf16 = options.get<ModelOptions>().dtype == ModelDtype::kBf16;
  std::vector<io::TensorToWrite> tensors;
  for (const FlatUnit& unit : layout)
    for (const FlatGroup& group : unit.groups)
      for (const FlatMember& member : group.members)
        tensors.push_back({.name = member.name,
                           .dtype = bf16 ? io::DType::kBF16 : io::DType::kF32,
                           .shape = member.shape,
                           .source = [&init, &member, bf16](const io::ByteSink& sink) {
                             write_random(member, init, bf16, sink);
                           }});
  const bool is_directory = std::filesystem::is_directory(tokenizer_path);
  io::HuggingFaceContents contents{
      .config_json = families.first().write(spec, {.torch_dtype = bf16 ? "bfloat16" : "float32",
                                                   .bos_id = tokenizer.bos_id(),
                                                   .eos_id = tokenizer.eos_id(),
                                                   .initializer_range = init.initializer_range}),
      .tensors = tensors,
      .tokenizer_dir = is_directory ? tokenizer_path : std::filesystem::path()};
  if (!is_directory) contents.extra_files["tokenizer.model"] = read_file(tokenizer_path);
  io::write_huggingface_directory(options.get<OutputOptions>().dir, contents);
  log::info(cat("wrote ", options.get<OutputOptions>().dir, ": ", num_parameters(layout),
                " parameters, ", bf16 ? "bf16" : "fp32", ", ", watch.elapsed_s(), " s"));
}

}  // namespace

void run_init(const Session& session) {
  together(session.world, [&] {
    if (session.is_root()) write_model(session.options, session.catalogue.families);
  });
}

}  // namespace vax::app
