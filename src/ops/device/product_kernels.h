// Launches of the own kernels around products and attention, as in kernels.h: plain pointers, sizes
// and the stream at the end; pointers are device memory. Shapes and types have been checked; no
// rows or no elements: nothing happens. Results are the same bits for the same inputs.
#pragma once

#include <cstdint>

#include "ops/kernels/table.h"

namespace vax::ops::device {

// Masks of ops/dropout.h, drawn by the kernels that apply them.
struct MaskSource {
  uint32_t key[2];
  const uint32_t* device_key;  // unless null: where the two words of the key are read instead
  uint32_t site, threshold;    // threshold 0: nothing is dropped
  const int32_t *rows, *positions;
};
struct DropoutArgs {
  int64_t cols;
  ConstRows x;
  Rows y;  // type of x
  float scale;
  MaskSource mask;
};
// y = mask(x) * scale
void launch_dropout(const DropoutArgs& args, int64_t rows, void* stream);

// `count` parts of a sum, of `elements` floats each, one after the other.
struct PartsArgs {
  const float* parts;
  int64_t count, elements;
  float* sum;
  bool accumulate;          // else sum is written
  int64_t turned_rows = 0;  // > 0: parts are [turned_rows, cols], sum is [cols, turned_rows]
};
void launch_join_parts(const PartsArgs& args, void* stream);

// Products with one thin side as in ops/kernels/table.h; u is contiguous. Masks concern X or Y.
struct ThinProduct {
  ThinArgs thin;
  MaskSource mask;
  float factor;
  float* scratch;  // as many floats as the function beside the launch says
};
struct GradSum {
  float* sum;  // [rank, cols], or [cols, rank] when turned
  bool accumulate, turned;
};
int64_t thin_xat_scratch(const ThinArgs& thin);
// U = factor * mask(X) A^T
void launch_thin_xat(const ThinProduct& product, ConstRows x, void* stream);
// Y += mask(factor * U A)
void launch_thin_ua(const ThinProduct& product, Rows y, void* stream);
int64_t thin_utx_scratch(const ThinArgs& thin);
// grad (+)= factor * U^T mask(X)
void launch_thin_utx(const ThinProduct& product, ConstRows x, const GradSum& grad, void* stream);

// --- attention -----------------------------------------------------------------------------------

// A cache [slots, positions, kv heads, K]; strides in elements, K contiguous.
struct CacheView {
  const void* data;
  int64_t slot_stride, position_stride, head_stride;
};
struct DecodeArgs {
  int64_t num_heads, group, head_dim;  // group: query heads of one key head
  float scale;
  ConstRows q;
  Rows o;  // type of q and of the caches
  CacheView k, v;
  const int32_t *slots, *lengths;
};
constexpr int64_t kMostDecodeDims = 256;
// REQUIRES head_dim <= kMostDecodeDims.
void launch_attention_decode(const DecodeArgs& args, int64_t num_tokens, void* stream);

// The logarithms of one head's sums side by side for all tokens, packed [H, T], and as some of
// LibTorch's operators keep them, padded [sequences, H, padded_length].
struct LseArgs {
  const int32_t* offsets;
  int64_t num_sequences, num_heads, num_tokens, padded_length;
};
void launch_pack_lse(const LseArgs& args, const float* padded, float* packed, void* stream);
// Infinite beyond a sequence's end.
void launch_pad_lse(const LseArgs& args, const float* packed, float* padded, void* stream);

// --- 8-bit floats --------------------------------------------------------------------------------

struct QuantiseArgs {
  int64_t rows, cols;
  ConstRows x;               // bf16
  const float* col_factors;  // [cols] multiply x first; null: 1
};
// scale[row] = largest magnitude of the row / 448 (1 for a row of zeros), q = x / scale in e4m3,
// contiguous; q null: scales only. What is not finite becomes NaN.
void launch_quantise_rows(const QuantiseArgs& args, uint8_t* q, float* scale, void* stream);
// The same q for given scales, transposed: [cols, rows]. REQUIRES rows that are a multiple of 4.
void launch_quantise_transposed(const QuantiseArgs& args, const float* scale, uint8_t* q,
                                void* stream);

}  // namespace vax::ops::device
