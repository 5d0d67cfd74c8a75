// Time of every operator at the size that the project's CPU goals are stated for: 500 tokens in 5
// sequences, hidden 768, 12 heads, feed-forward 2048, LoRA r 8 with dropout 0.1, vocabulary 32000
// with 400 label rows. Run with OMP_NUM_THREADS set; argument 1 of a benchmark is 0 for fp32, 1 for
// bf16. Single operators only: time per step is measured by training.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <numeric>
#include <vector>

#include "ops/activation.h"
#include "ops/adamw.h"
#include "ops/attention.h"
#include "ops/dropout.h"
#include "ops/embedding.h"
#include "ops/head_loss.h"
#include "ops/hidden_state.h"
#include "ops/layer_norm.h"
#include "ops/linear.h"
#include "ops/lora.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"
#include "ops/swiglu.h"

namespace vax::ops {
namespace {

constexpr int64_t kTokens = 500, kSequences = 5, kHidden = 768, kFeedForward = 2048, kHeads = 12;
constexpr int64_t kRank = 8, kVocabulary = 32000, kLabels = 400;

at::ScalarType type_of(const benchmark::State& state) {
  return state.range(0) == 0 ? at::kFloat : at::kBFloat16;
}

at::Tensor random(at::IntArrayRef sizes, at::ScalarType type = at::kFloat) {
  return at::randn(sizes).to(type);
}

at::Tensor number(double value) { return at::full({1}, value, at::kDouble); }

// Places of the tokens: 5 sequences of 100.
struct Tokens {
  std::vector<int32_t> rows, positions, offsets;
  Tokens() : rows(kTokens), positions(kTokens), offsets(kSequences + 1) {
    constexpr int32_t kLength = kTokens / kSequences;
    for (int32_t t = 0; t < kTokens; ++t) {
      rows[static_cast<size_t>(t)] = t / kLength;
      positions[static_cast<size_t>(t)] = t % kLength;
    }
    for (int32_t s = 0; s <= kSequences; ++s) offsets[static_cast<size_t>(s)] = s * kLength;
  }
  DropoutKey key(double p) const {
    return {.p = p, .seed = 1, .stream = 2, .site = 3, .rows = rows, .positions = positions};
  }
};

void bm_rms_norm_forward(benchmark::State& state) {
  const at::Tensor x = random({kTokens, kHidden}), w = random({kHidden}, type_of(state));
  at::Tensor y = at::empty({kTokens, kHidden}, w.options()), rstd = at::empty({kTokens});
  for (auto _ : state) rms_norm_forward(x, w, 1e-5, y, rstd);
}

void bm_rms_norm_backward(benchmark::State& state) {
  const at::Tensor x = random({kTokens, kHidden}), w = random({kHidden}, type_of(state));
  const at::Tensor dy = random({kTokens, kHidden}, type_of(state)), rstd = at::ones({kTokens});
  at::Tensor dx = at::zeros_like(x), dw = at::zeros({kHidden});
  for (auto _ : state) rms_norm_backward(dy, x, w, rstd, dx, dw);
}

void bm_layer_norm_forward(benchmark::State& state) {
  const at::Tensor x = random({kTokens, kHidden}), w = random({kHidden}, type_of(state));
  const at::Tensor b = random({kHidden}, type_of(state));
  at::Tensor y = at::empty({kTokens, kHidden}, w.options());
  at::Tensor mean = at::empty({kTokens}), rstd = at::empty({kTokens});
  for (auto _ : state) layer_norm_forward(x, w, b, 1e-5, y, mean, rstd);
}

void bm_layer_norm_backward(benchmark::State& state) {
  const at::Tensor x = random({kTokens, kHidden}), w = random({kHidden}, type_of(state));
  const at::Tensor dy = random({kTokens, kHidden}, type_of(state)), rstd = at::ones({kTokens});
  const at::Tensor mean = at::zeros({kTokens});
  at::Tensor dx = at::zeros_like(x), dw = at::zeros({kHidden}), db = at::zeros({kHidden});
  for (auto _ : state) layer_norm_backward(dy, x, w, mean, rstd, dx, dw, db);
}

// Arguments: type; 0 relu, 1 gelu.
void bm_activation_forward(benchmark::State& state) {
  const at::Tensor x = random({kTokens, kFeedForward}, type_of(state));
  at::Tensor y = at::empty_like(x);
  const auto kind = static_cast<Activation>(state.range(1));
  for (auto _ : state) activation_forward(kind, x, y);
}

void bm_activation_backward(benchmark::State& state) {
  const at::Tensor x = random({kTokens, kFeedForward}, type_of(state));
  const at::Tensor dy = random({kTokens, kFeedForward}, type_of(state));
  at::Tensor dx = at::empty_like(x);
  const auto kind = static_cast<Activation>(state.range(1));
  for (auto _ : state) activation_backward(kind, dy, x, dx);
}

void bm_swiglu_forward(benchmark::State& state) {
  const at::Tensor gate_up = random({kTokens, 2 * kFeedForward}, type_of(state));
  at::Tensor y = at::empty({kTokens, kFeedForward}, gate_up.options());
  for (auto _ : state) swiglu_forward(gate_up, y);
}

void bm_swiglu_backward(benchmark::State& state) {
  const at::Tensor gate_up = random({kTokens, 2 * kFeedForward}, type_of(state));
  const at::Tensor dy = random({kTokens, kFeedForward}, type_of(state));
  at::Tensor dgate_up = at::empty_like(gate_up);
  for (auto _ : state) swiglu_backward(dy, gate_up, dgate_up);
}

void bm_rotary(benchmark::State& state) {
  const Tokens tokens;
  at::Tensor x = random({kTokens, 2 * kHeads, kHidden / kHeads}, type_of(state));
  const at::Tensor angles = random({kTokens, kHidden / kHeads / 2});
  const at::Tensor cos = at::cos(angles), sin = at::sin(angles);
  const at::Tensor positions = at::arange(kTokens, at::kInt);
  for (auto _ : state) rotary_forward(x, cos, sin, positions);
}

void bm_dropout(benchmark::State& state) {
  const Tokens tokens;
  const at::Tensor x = random({kTokens, kHidden}, type_of(state));
  at::Tensor y = at::empty_like(x);
  for (auto _ : state) dropout(x, tokens.key(0.1), y);
}

// Arguments: type, inputs, outputs, dropout in percent, rank.
void lora_arguments(benchmark::internal::Benchmark* bench) {
  for (const int64_t type : {0, 1}) {
    bench->Args({type, kHidden, kHidden, 10, kRank});
    bench->Args({type, kHidden, kHidden, 0, kRank});
    bench->Args({type, kHidden, kFeedForward, 10, kRank});
    bench->Args({type, kFeedForward, kHidden, 10, kRank});
  }
  bench->Args({0, kHidden, kHidden, 10, 64});
}

void bm_lora_forward(benchmark::State& state) {
  const Tokens tokens;
  const int64_t inputs = state.range(1), outputs = state.range(2), rank = state.range(4);
  const DropoutKey key = tokens.key(static_cast<double>(state.range(3)) / 100);
  const at::Tensor x = random({kTokens, inputs}, type_of(state));
  const at::Tensor a = random({rank, inputs}), b = random({outputs, rank});
  at::Tensor u = at::empty({kTokens, rank}), y = random({kTokens, outputs}, type_of(state));
  for (auto _ : state) lora_forward(x, a, b, 1e-9, key, u, y);
}

void bm_lora_backward(benchmark::State& state) {
  const Tokens tokens;
  const int64_t inputs = state.range(1), outputs = state.range(2), rank = state.range(4);
  const DropoutKey key = tokens.key(static_cast<double>(state.range(3)) / 100);
  const at::Tensor x = random({kTokens, inputs}, type_of(state));
  const at::Tensor dy = random({kTokens, outputs}, type_of(state));
  const at::Tensor a = random({rank, inputs}), b = random({outputs, rank});
  const at::Tensor u = random({kTokens, rank});
  at::Tensor dx = at::zeros_like(x), da = at::zeros_like(a), db = at::zeros_like(b);
  for (auto _ : state) lora_backward(dy, x, u, a, b, 1e-9, key, dx, da, db);
}

struct AttentionInputs {
  AttentionShape shape{kHeads, kHeads, kHidden / kHeads, 0.125};
  Tokens tokens;
  at::Tensor qkv, o, lse;
  explicit AttentionInputs(at::ScalarType type)
      : qkv(random({kTokens, 3 * kHidden}, type)),
        o(at::empty({kTokens, kHidden}, qkv.options())),
        lse(at::empty({kTokens, kHeads})) {}
};

void bm_attention_forward(benchmark::State& state) {
  AttentionInputs in(type_of(state));
  for (auto _ : state) attention_forward(in.qkv, in.shape, in.tokens.offsets, in.o, in.lse);
}

void bm_attention_backward(benchmark::State& state) {
  AttentionInputs in(type_of(state));
  attention_forward(in.qkv, in.shape, in.tokens.offsets, in.o, in.lse);
  const at::Tensor d_o = at::randn_like(in.o);
  at::Tensor dqkv = at::empty_like(in.qkv);
  for (auto _ : state) {
    attention_backward(d_o, in.qkv, in.o, in.lse, in.shape, in.tokens.offsets, dqkv);
  }
}

// Arguments: type; dW: 0 none, 1 added to, 2 written.
void bm_head_loss(benchmark::State& state) {
  const at::Tensor x = random({kLabels, kHidden}, type_of(state));
  const at::Tensor w = random({kVocabulary, kHidden}, type_of(state)) * 0.02;
  std::vector<int64_t> targets(kLabels);
  std::iota(targets.begin(), targets.end(), 7);
  at::Tensor dx = at::empty_like(x), dw;
  const bool accumulate = state.range(1) == 1;
  if (state.range(1) > 0) dw = at::zeros({kVocabulary, kHidden});
  const at::Tensor loss_scale = number(1e-3);
  at::Tensor loss_sum = number(0);
  for (auto _ : state) head_loss(x, w, targets, loss_scale, loss_sum, dx, dw, accumulate);
}

// One linear layer; GFLOP/s beside the time. LibTorch's product of the same shape is the measure.
struct LinearInputs {
  at::Tensor x, w, y, dx, dw;
  LinearInputs(at::ScalarType type, int64_t inputs, int64_t outputs)
      : x(random({kTokens, inputs}, type)),
        w(random({outputs, inputs}, type)),
        y(random({kTokens, outputs}, type)),
        dx(at::empty_like(x)),
        dw(at::zeros({outputs, inputs})) {}
  explicit LinearInputs(const benchmark::State& state)
      : LinearInputs(type_of(state), state.range(1), state.range(2)) {}
};

void count_flop(benchmark::State& state) {
  const auto flop = static_cast<double>(2 * kTokens * state.range(1) * state.range(2));
  state.counters["FLOP/s"] = benchmark::Counter(flop * static_cast<double>(state.iterations()),
                                                benchmark::Counter::kIsRate);
}

// Arguments: type, inputs, outputs.
void linear_arguments(benchmark::internal::Benchmark* bench) {
  for (const int64_t type : {0, 1}) {
    bench->Args({type, kHidden, kHidden});
    bench->Args({type, kHidden, 3 * kHidden});
    bench->Args({type, kHidden, 2 * kFeedForward});
    bench->Args({type, kFeedForward, kHidden});
  }
}

void bm_linear_forward(benchmark::State& state) {
  LinearInputs in(state);
  for (auto _ : state) linear_forward(in.x, in.w, {}, in.y);
  count_flop(state);
}

void bm_libtorch_forward(benchmark::State& state) {
  LinearInputs in(state);
  for (auto _ : state) at::mm_out(in.y, in.x, in.w.t());
  count_flop(state);
}

void bm_linear_backward_input(benchmark::State& state) {
  LinearInputs in(state);
  for (auto _ : state) linear_backward_input(in.y, in.w, in.dx, false);
  count_flop(state);
}

void bm_linear_add_weight(benchmark::State& state) {
  LinearInputs in(state);
  for (auto _ : state) linear_backward_weight(in.y, in.x, in.dw, true);
  count_flop(state);
}

void bm_linear_write_weight(benchmark::State& state) {
  LinearInputs in(state);
  for (auto _ : state) linear_backward_weight(in.y, in.x, in.dw, false);
  count_flop(state);
}

void bm_linear_backward_bias(benchmark::State& state) {
  const at::Tensor dy = random({kTokens, 3 * kHidden}, type_of(state));
  at::Tensor db = at::zeros({3 * kHidden});
  for (auto _ : state) linear_backward_bias(dy, db);
}

std::vector<int64_t> some_ids() {
  std::vector<int64_t> ids(kTokens);
  for (size_t t = 0; t < ids.size(); ++t) ids[t] = static_cast<int64_t>(t * 131) % kVocabulary;
  return ids;
}

void bm_embedding_forward(benchmark::State& state) {
  const at::Tensor w = random({kVocabulary, kHidden}, type_of(state));
  const std::vector<int64_t> ids = some_ids();
  at::Tensor x = at::empty({kTokens, kHidden});
  for (auto _ : state) embedding_forward(ids, w, x);
}

// Argument: 1 adds to dW, 0 writes all of it.
void bm_embedding_backward(benchmark::State& state) {
  const at::Tensor dx = random({kTokens, kHidden});
  const std::vector<int64_t> ids = some_ids();
  at::Tensor dw = at::zeros({kVocabulary, kHidden});
  for (auto _ : state) embedding_backward(dx, ids, dw, state.range(0) == 1);
}

void bm_residual_add(benchmark::State& state) {
  const at::Tensor e = random({kTokens, kHidden}, type_of(state));
  at::Tensor h = random({kTokens, kHidden});
  for (auto _ : state) residual_add(h, e, h);
}

void bm_copy_with_squares(benchmark::State& state) {
  const at::Tensor grad = random({kTokens, kHidden});
  at::Tensor kept = at::empty({kTokens, kHidden}, type_of(state));
  at::Tensor squares = number(0);
  for (auto _ : state) copy_with_squares(grad, kept, squares);
}

void bm_add_scaled(benchmark::State& state) {
  const at::Tensor kept = random({kTokens, kHidden}, type_of(state));
  at::Tensor h = random({kTokens, kHidden});
  const at::Tensor scale = number(1e-9);
  for (auto _ : state) add_scaled(kept, scale, h);
}

void bm_cosine_sums(benchmark::State& state) {
  const at::Tensor a = random({kTokens, kHidden});
  const at::Tensor b = random({kTokens, kHidden}, type_of(state));
  at::Tensor sums = at::zeros({3}, at::kDouble);
  for (auto _ : state) cosine_sums(a, b, sums);
}

void bm_adamw(benchmark::State& state) {
  at::Tensor weight = at::ones({state.range(0)}), exp_avg = at::zeros_like(weight);
  at::Tensor exp_avg_sq = at::zeros_like(weight);
  const at::Tensor grad = at::ones_like(weight);
  for (auto _ : state) adamw_update(weight, grad, exp_avg, exp_avg_sq, {.lr = 1e-9});
  state.SetBytesProcessed(state.iterations() * state.range(0) * 7 * 4);
}

#define VAX_BENCHMARK(name) BENCHMARK(name)->Unit(benchmark::kMicrosecond)->UseRealTime()

VAX_BENCHMARK(bm_rms_norm_forward)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_rms_norm_backward)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_layer_norm_forward)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_layer_norm_backward)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_activation_forward)->ArgsProduct({{0, 1}, {0, 1}});
VAX_BENCHMARK(bm_activation_backward)->ArgsProduct({{0, 1}, {0, 1}});
VAX_BENCHMARK(bm_swiglu_forward)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_swiglu_backward)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_rotary)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_dropout)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_lora_forward)->Apply(lora_arguments);
VAX_BENCHMARK(bm_lora_backward)->Apply(lora_arguments);
VAX_BENCHMARK(bm_attention_forward)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_attention_backward)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_head_loss)->ArgsProduct({{0, 1}, {0, 1, 2}});
VAX_BENCHMARK(bm_linear_forward)->Apply(linear_arguments);
VAX_BENCHMARK(bm_libtorch_forward)->Apply(linear_arguments);
VAX_BENCHMARK(bm_linear_backward_input)->Apply(linear_arguments);
VAX_BENCHMARK(bm_linear_add_weight)->Apply(linear_arguments);
VAX_BENCHMARK(bm_linear_write_weight)->Apply(linear_arguments);
VAX_BENCHMARK(bm_linear_backward_bias)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_embedding_forward)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_embedding_backward)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_residual_add)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_copy_with_squares)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_add_scaled)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_cosine_sums)->Arg(0)->Arg(1);
VAX_BENCHMARK(bm_adamw)->Arg(1 << 24);

}  // namespace
}  // namespace vax::ops

BENCHMARK_MAIN();
