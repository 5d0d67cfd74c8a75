// Time of a whole gradient step, SFT and Vaccine in turn in one process, so that the ratio holds
// whatever else the machine is doing. Beside it the FLOP that the step must do, counted from the
// shapes: 2 per weight and token forward, 2 for the gradient of the input, 2 for that of the weight
// where it is trained, attention's products over the causal half.
//   step_benchmark [hidden ffn layers heads kv_heads vocab sequences tokens labels rounds
//                   lora|full fp32|bf16 threads]
// Prints one line per method: median and spread over the rounds, GFLOP, GFLOP/s; then the ratio.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/packed_batch.h"
#include "base/stopwatch.h"
#include "dist/collectives.h"
#include "model/llama_layout.h"
#include "train/sharded_weights.h"
#include "train/step_method.h"
#include "vaccine/vaccine_method.h"

namespace vax {
namespace {

struct Shape {
  int64_t hidden = 768, ffn = 2048, layers = 12, heads = 12, kv_heads = 12, vocab = 32000;
  int64_t sequences = 5, tokens = 100, labels = 80;  // a sequence
  int rounds = 7;
  bool lora = true;
  bool bf16 = false;
  int threads = 1;
};

Shape parse(int argc, char** argv) {
  Shape shape;
  int64_t* const numbers[] = {&shape.hidden,    &shape.ffn,      &shape.layers,
                              &shape.heads,     &shape.kv_heads, &shape.vocab,
                              &shape.sequences, &shape.tokens,   &shape.labels};
  for (int i = 1; i < argc; ++i) {
    if (i <= 9) *numbers[i - 1] = std::atoll(argv[i]);
    if (i == 10) shape.rounds = std::atoi(argv[i]);
    if (i == 11) shape.lora = std::string(argv[i]) == "lora";
    if (i == 12) shape.bf16 = std::string(argv[i]) == "bf16";
    if (i == 13) shape.threads = std::atoi(argv[i]);
  }
  return shape;
}

model::LlamaConfig config_of(const Shape& shape) {
  model::LlamaConfig config;
  config.vocab_size = shape.vocab;
  config.hidden_size = shape.hidden;
  config.intermediate_size = shape.ffn;
  config.num_layers = shape.layers;
  config.num_heads = shape.heads;
  config.num_kv_heads = shape.kv_heads;
  config.head_dim = shape.hidden / shape.heads;
  return config;
}

PackedBatch batch_of(const Shape& shape) {
  PackedBatch batch;
  batch.offsets.push_back(0);
  for (int64_t s = 0; s < shape.sequences; ++s) {
    for (int64_t t = 0; t < shape.tokens; ++t) {
      batch.ids.push_back((s * 977 + t * 131 + 7) % shape.vocab);
      batch.positions.push_back(static_cast<int32_t>(t));
      batch.rows.push_back(static_cast<int32_t>(s));
      if (t >= shape.tokens - shape.labels && t > 0) {
        batch.label_positions.push_back(s * shape.tokens + t - 1);
        batch.targets.push_back(batch.ids.back());
      }
    }
    batch.offsets.push_back(static_cast<int32_t>(batch.ids.size()));
  }
  return batch;
}

struct Flop {
  double forward, input_gradient, weight_gradient;
};

Flop count(const Shape& shape, const FlatLayout& base, const PackedBatch& batch) {
  const auto tokens = static_cast<double>(batch.num_tokens());
  double blocks = 0;
  for (const FlatUnit& unit : base)
    for (const FlatGroup& group : unit.groups)
      if (group.shape.size() == 2 && group.role != model::kEmbedding && group.role != model::kHead)
        blocks += static_cast<double>(group.count);
  const double head = static_cast<double>(shape.vocab * shape.hidden * batch.num_labels());
  const double attention = static_cast<double>(shape.layers * shape.hidden) * tokens *
                           static_cast<double>(shape.tokens);  // both products, causal half
  const double once = 2 * (blocks * tokens + head) + 2 * attention;
  return {.forward = once,
          .input_gradient = once + 2 * attention,
          .weight_gradient = shape.lora ? 0 : 2 * (blocks * tokens + head)};
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void report(const char* name, const std::vector<double>& seconds, double flop) {
  const double middle = median(seconds);
  std::printf("%-8s median %.4f s  min %.4f  max %.4f   %.1f GFLOP  %.1f GFLOP/s\n", name, middle,
              *std::ranges::min_element(seconds), *std::ranges::max_element(seconds), flop * 1e-9,
              flop * 1e-9 / middle);
}

void run(const Shape& shape) {
  at::manual_seed(1);
  const auto group = dist::make_self_collectives();
  const model::LoraSpec lora = shape.lora ? model::make_lora_spec(8, 4, {}) : model::LoraSpec{};
  const at::ScalarType compute = shape.bf16 ? at::kBFloat16 : at::kFloat;
  const model::Llama llama(config_of(shape), lora, !shape.lora, compute);
  train::Plane frozen(llama.frozen_layout(), *group,
                      {.shard_dtype = compute, .gather_dtype = compute});
  train::Plane trainable(llama.trainable_layout(), *group,
                         {.gather_dtype = shape.lora ? at::kFloat : compute});
  for (train::Plane* plane : {&frozen, &trainable})
    for (int i = 0; i < plane->units().num_units(); ++i) {
      plane->units().shard(i).normal_(0, 0.02);
    }
  train::ShardedWeights weights(frozen, trainable, std::nullopt);
  dist::ShardedGradients gradients(*group, trainable.unit_layout(), at::kCPU);
  train::ShardedGradientSink sink(trainable, gradients);
  const TrainOptions options;
  const train::StepContext context{.update = {.llama = llama, .weights = weights},
                                   .probe = {.llama = llama, .weights = weights},
                                   .gradients = sink,
                                   .world = *group,
                                   .train = options,
                                   .dropout = shape.lora ? 0.1 : 0};
  train::SftMethod sft(context);
  vaccine::VaccineMethod two_pass(context, {.rho = 2});
  const PackedBatch batch = batch_of(shape);
  const auto step = [&](train::StepMethod& method) {
    gradients.zero();
    const Stopwatch watch;
    method.run({.step = 1, .micro_batches = {&batch, 1}, .label_tokens = batch.num_labels()});
    gradients.finish();
    return watch.elapsed_s();
  };
  step(two_pass);
  std::vector<double> sft_s, vaccine_s, ratios;
  for (int round = 0; round < shape.rounds; ++round) {
    sft_s.push_back(step(sft));
    vaccine_s.push_back(step(two_pass));
    ratios.push_back(vaccine_s.back() / sft_s.back());
  }
  const Flop flop = count(shape, model::base_layout(llama.config()), batch);
  const double one_pass = flop.forward + flop.input_gradient + flop.weight_gradient;
  const double both = one_pass + flop.forward + flop.input_gradient;
  report("SFT", sft_s, one_pass);
  report("Vaccine", vaccine_s, both);
  std::printf("ratio    median %.3f  min %.3f  max %.3f   counted %.3f\n", median(ratios),
              *std::ranges::min_element(ratios), *std::ranges::max_element(ratios),
              both / one_pass);
}

}  // namespace
}  // namespace vax

int main(int argc, char** argv) {
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, -1);
  const c10::InferenceMode no_autograd;
  const vax::Shape shape = vax::parse(argc, argv);
  at::set_num_threads(shape.threads);
  vax::run(shape);
  return EXIT_SUCCESS;
}
