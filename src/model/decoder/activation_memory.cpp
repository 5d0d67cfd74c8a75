#include "model/decoder/activation_memory.h"

#include <algorithm>

#include "base/narrow.h"
#include "ops/head_loss.h"

namespace vax::model {
namespace {

constexpr int64_t kFloatBytes = 4;

int64_t element_bytes(const BlockDims& dims) {
  return static_cast<int64_t>(at::elementSize(dims.compute_dtype));
}

// Bytes a token of one block.
struct BlockBytes {
  int64_t saved;     // from its forward to its backward, x and h included
  int64_t forward;   // most that its forward makes and does not save, its output left out
  int64_t backward;  // most that the backward of a half makes, on top of what is saved
};

int64_t num_targets(const LoraSpec& lora) {
  return std::count(lora.targets.begin(), lora.targets.end(), true);
}

BlockBytes block_bytes(const BlockDims& dims, bool weight_gradients) {
  const int64_t s = element_bytes(dims);
  const int64_t hidden = dims.hidden_size, ffn = dims.intermediate_size;
  const int64_t qkv = dims.qkv_width(), query = dims.query_width();
  const int64_t rstd = kFloatBytes, lse = kFloatBytes * dims.attention.num_heads;
  const int64_t low_rank = kFloatBytes * dims.lora.r * num_targets(dims.lora);
  const int64_t saved_attention = rstd + s * (qkv + query) + lse;
  const int64_t saved_mlp = rstd + s * 2 * ffn;
  // The gradient of a half's output in the compute type; in fp32 it is the stream's itself.
  const int64_t cast = s < kFloatBytes ? s * hidden : 0;
  // Inputs of GEMMs, made again for the weights' gradients.
  const int64_t normed = weight_gradients ? s * hidden : 0;
  const int64_t activation = weight_gradients ? s * ffn : 0;
  const int64_t attention = cast + s * (query + qkv + hidden) + normed;
  const int64_t mlp = cast + s * (ffn + hidden) + activation + normed;
  // e, the norm's output and the activation: attention's own are fewer.
  return {.saved = 2 * kFloatBytes * hidden + saved_attention + saved_mlp + low_rank,
          .forward = s * (2 * hidden + ffn),
          .backward = std::max(attention, mlp)};
}

// Bytes that a bf16 product of `rows` x `cols` takes on its way to an fp32 gradient, where the
// processor's library can only write bf16 (ops/matmul.cpp: a block of 2^20 elements or 128 rows).
int64_t product_bytes(int64_t rows, int64_t cols) {
  return 2 * cols * std::min(rows, std::max<int64_t>(128, (int64_t{1} << 20) / cols));
}

bool makes_products(const BlockDims& dims, const PassShape& pass) {
  return dims.train_base && pass.weight_gradients && dims.compute_dtype != at::kFloat &&
         !pass.on_device;
}

// When a device's attention runs its backward (ops/device/attention.cpp): the gradients of its
// output and of the fused matrix, those that LibTorch's kernels return, and their scratch.
int64_t device_attention_bytes(const BlockDims& dims, const PassShape& pass) {
  const int64_t s = element_bytes(dims), query = dims.query_width(), kv = dims.kv_width();
  const int64_t heads = dims.attention.num_heads;
  const bool shares_keys = heads != dims.attention.num_kv_heads;
  const int64_t ours = s * (query + dims.qkv_width());
  if (dims.compute_dtype == at::kFloat) {
    // Keys, values and their gradients once per query head; sums of gradients one after the other.
    const int64_t copies = shares_keys ? s * (2 * query + kv) : 0;
    const int64_t lse = kFloatBytes * heads;
    return pass.num_tokens * (ours + s * 3 * query + copies + 2 * lse);
  }
  // Deterministic flash attention: sums of dq in fp32, as many as it takes to fill the processors,
  // and rows of padding behind every sequence; a number for every row and head; dk and dv once per
  // query head. 132: the processors of an H100 or H200.
  constexpr int64_t kProcessors = 132, kPaddingRows = 128, kDimMultiple = 32;
  const int64_t rows = pass.num_tokens + kPaddingRows * pass.num_sequences;
  const int64_t splits = ceil_div(kProcessors, pass.num_sequences * heads);
  const int64_t sums = splits * heads * round_up(dims.attention.head_dim, kDimMultiple);
  return pass.num_tokens * (ours + s * dims.qkv_width() + (shares_keys ? s * 2 * query : 0)) +
         kFloatBytes * rows * (sums + heads);
}

// Made by the head, on top of its input x: label rows and logits first, then the stream's gradient.
int64_t head_bytes(const Spec& spec, const BlockDims& dims, const PassShape& pass) {
  const int64_t s = element_bytes(dims), hidden = dims.hidden_size;
  const int64_t vocabulary = spec.vocab_size;
  const bool with_weight = dims.train_base && pass.weight_gradients;
  const int64_t rows = ((kFloatBytes + 2 * s) * hidden + kFloatBytes) * pass.num_labels;
  const int64_t chunk = std::min(
      pass.num_labels, ops::head_loss_chunk_rows(vocabulary, s, with_weight || pass.on_device));
  const int64_t product = makes_products(dims, pass) ? product_bytes(vocabulary, hidden) : 0;
  const int64_t gradients = kFloatBytes * hidden * (pass.num_labels + pass.num_tokens);
  return rows + std::max(s * vocabulary * chunk + product, gradients);
}

}  // namespace

int64_t activation_bytes(const Spec& spec, const BlockDims& dims, const PassShape& pass) {
  const BlockBytes block = block_bytes(dims, pass.weight_gradients);
  const int64_t tokens = pass.num_tokens;
  const int64_t stream = kFloatBytes * dims.hidden_size * tokens;  // x, or its gradient
  // Of the gate-up matrix, the largest of a block.
  const int64_t product =
      makes_products(dims, pass) ? product_bytes(2 * dims.intermediate_size, dims.hidden_size) : 0;
  const int64_t cast = dims.compute_dtype == at::kFloat ? 0 : stream / 2;
  const int64_t attention = pass.on_device ? cast + device_attention_bytes(dims, pass) : 0;
  const int64_t backward = std::max(tokens * block.backward + product, attention);
  // The block that is run again: its x is one of those kept. Running it needs less than its
  // backward.
  if (pass.recompute)
    return spec.num_layers * stream + stream +
           std::max(head_bytes(spec, dims, pass), tokens * block.saved - stream + backward);
  return spec.num_layers * tokens * block.saved +
         std::max(tokens * block.forward,
                  stream + std::max(head_bytes(spec, dims, pass), backward));
}

}  // namespace vax::model
