// The vector kernels under the operators: one table of function pointers per instruction set, the
// best one that the processor has chosen once at the first use. Every kernel is compiled several
// times from the same source (target_*.cpp include *.inl); operators check shapes, split the work
// over threads and call through the table.
//
// Invariants that are easy to break:
//  - a row's result depends on its inputs only, never on the range [begin, end) it is computed in,
//    so that any split over threads gives the same bits (tails run the code of full vectors);
//  - kernels neither allocate nor throw, and know nothing of LibTorch.
// Results are equal bit for bit between machines only if they use the same table. The environment
// variable VAX_CPU_TARGET (generic | avx2 | avx512 | avx512bf16) forces one, e.g. on a mixed
// cluster.
#pragma once

#include <cstdint>
#include <string_view>

namespace vax::ops {

enum class Elem : uint8_t { kFloat, kBfloat16 };

struct Bf16 {
  uint16_t bits;
};

// Rows of a matrix whose elements within a row are contiguous; stride in elements.
struct ConstRows {
  const void* data;
  Elem elem;
  int64_t stride;
};
struct Rows {
  void* data;
  Elem elem;
  int64_t stride;  // elements
  [[gnu::always_inline]] operator ConstRows() const { return {data, elem, stride}; }
};

struct RmsNormArgs {
  int64_t cols;
  ConstRows x, w;  // x fp32; w one row
  float eps;
  float* rstd;
  Rows y;
};
struct RmsNormBackwardArgs {
  int64_t cols;
  ConstRows dy, x, w;
  const float* rstd;
  Rows dx;
};
struct SwigluArgs {
  int64_t cols;  // F
  ConstRows dy;  // backward only
  ConstRows gate_up;
  Rows out;  // y, or dgate_up
};
struct RotaryArgs {
  int64_t num_heads, half_dim, head_stride;
  Rows x;  // stride: between tokens
  const float *cos, *sin;
  int64_t angle_stride;
  const int32_t* positions;
  float sign;  // of the angle
};
// dst = src * scale * row_scale[row], or 0 where the mask's bit is 0.
struct ConvertArgs {
  int64_t cols;
  ConstRows src;
  Rows dst;
  float scale = 1;
  const float* row_scale = nullptr;  // null: 1
  const uint8_t* mask = nullptr;     // bit c % 8 of byte c / 8; null: keep all
  int64_t mask_stride = 0;           // bytes
};
// One byte per group of 8 channels: bit j is set when channel 8 g + j is kept. Rows of a mask are
// padded to what the widest kernel draws at once.
[[gnu::always_inline]] constexpr int64_t mask_row_bytes(int64_t num_groups) {
  return (num_groups + 31) / 32 * 32;
}
struct MaskArgs {
  uint32_t key[2];
  uint32_t site;
  uint32_t threshold;  // dropped when the 16 bits are below; at most 65536
  const int32_t *rows, *positions;
  int64_t num_groups;
};
// Products with one thin side: U [rows, rank], A [rank, cols], X, Y [rows, cols].
struct ThinArgs {
  int64_t rows, cols, rank;
  float* u;
  int64_t u_stride;
  const float* a;
  int64_t a_stride;
};
struct CausalArgs {
  int64_t rows, cols;
  float* scores;  // q k^T, not yet scaled
  int64_t stride;
  int64_t first_length;  // row i sees columns [0, first_length + i)
  float scale;
  int64_t lse_stride;
};
struct CrossEntropyArgs {
  int64_t cols;
  Rows z;  // becomes scale * (softmax(z) - onehot) when with_gradient
  const int64_t* targets;
  float scale;
  bool with_gradient;
};
// h = x + scale * added; h may be x. A stride of 0 repeats one row of added.
struct AddScaledArgs {
  int64_t cols;
  ConstRows x, added;  // x fp32
  float scale;
  Rows h;  // fp32
};
// Source of one panel: a word (an fp32 number, or two bf16 numbers that follow each other along the
// inner dimension) for each of `depth` inner positions and each lane; lanes and halves that do not
// exist become 0.
struct PackArgs {
  const void* source;
  Elem elem;
  int64_t stride;  // elements between rows of the source
  bool turned;    // rows of the source are lanes (fp32 only), else positions of the inner dimension
  int64_t lanes;  // that exist
  int64_t depth;  // words
  int64_t inner;  // elements along the inner dimension, from the source's first
};
// C [rows, cols] = alpha * A B, added to C when `accumulate`, from one packed panel each.
struct TileArgs {
  int64_t depth;  // words
  const float *a, *b;
  float* c;
  int64_t c_stride, rows, cols;
  float alpha;
  bool accumulate;
};
struct AdamWArgs {
  float *weight, *exp_avg, *exp_avg_sq;
  const float* grad;
  float grad_scale, decay, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size,
      inv_sqrt_correction2, eps;
};

struct KernelTable {
  const char* name;

  void (*rms_norm_forward)(const RmsNormArgs&, int64_t begin, int64_t end);  // writes rstd too
  void (*rms_norm_apply)(const RmsNormArgs&, int64_t begin, int64_t end);
  // Adds the rows' share to dw [cols] unless null.
  void (*rms_norm_backward)(const RmsNormBackwardArgs&, int64_t begin, int64_t end, float* dw);
  // db[c] += sum over all rows of dy, for columns [begin, end).
  void (*column_sums)(ConstRows dy, int64_t rows, int64_t begin, int64_t end, float* db);
  // out[i] = sum over columns of a * b.
  void (*row_dots)(ConstRows a, ConstRows b, int64_t rows, int64_t cols, float* out);

  void (*swiglu_forward)(const SwigluArgs&, int64_t begin, int64_t end);
  void (*swiglu_backward)(const SwigluArgs&, int64_t begin, int64_t end);
  void (*rotary)(const RotaryArgs&, int64_t begin, int64_t end);
  void (*convert)(const ConvertArgs&, int64_t rows);

  // Masks of rows [begin, end), the first one's at `mask`, mask_row_bytes(num_groups) apart.
  void (*draw_mask)(const MaskArgs&, int64_t begin, int64_t end, uint8_t* mask);

  void (*thin_xat)(const ThinArgs&, const float* x, int64_t x_stride);  // U = X A^T
  // Y += U A, only where the mask's bit is 1 (mask null: everywhere).
  void (*thin_ua)(const ThinArgs&, Rows y, const uint8_t* mask, int64_t mask_stride);
  // grad [rank, cols] += U^T X (A is not read).
  void (*thin_utx)(const ThinArgs&, const float* x, int64_t x_stride, float* grad);

  // scores := exp(scale * scores - max) with zeros beyond a row's length; inv_sum[i] = 1 / its sum;
  // lse[i * lse_stride] = log sum exp(scale * scores).
  void (*causal_softmax)(const CausalArgs&, float* inv_sum, float* lse);
  // scores := P = exp(scale * scores - lse);  dp := P * (dp - delta). dp has the scores' stride.
  void (*causal_softmax_backward)(const CausalArgs&, const float* lse, const float* delta,
                                  float* dp);
  // losses[row] = logsumexp(z) - z[target]
  void (*cross_entropy)(const CrossEntropyArgs&, int64_t begin, int64_t end, double* losses);
  void (*add_scaled)(const AddScaledArgs&, int64_t begin, int64_t end);
  // kept = grad (fp32); squares[i] = sum over row i of kept^2, after rounding to kept's type.
  void (*copy_with_squares)(int64_t cols, ConstRows grad, Rows kept, int64_t rows, float* squares);

  // Panels have gemm_rows words of A or gemm_cols words of B per inner position.
  int gemm_rows, gemm_cols;
  bool bf16_dot;  // the processor multiplies pairs of bf16
  void (*pack_a)(const PackArgs&, float* to);
  void (*pack_b)(const PackArgs&, float* to);
  void (*tile_float)(const TileArgs&);
  void (*tile_bf16)(const TileArgs&);

  void (*adamw)(const AdamWArgs&, int64_t begin, int64_t end);
};

// The table in use: choose_kernels() of VAX_CPU_TARGET, once. THROWS as that does.
const KernelTable& kernels();

// The table of that name; the best one that the processor supports for null or "".
// THROWS ConfigError when the name is unknown or the processor lacks it.
const KernelTable& choose_kernels(const char* name);

// A table by name, or null when it is unknown, not compiled in or not supported here.
const KernelTable* find_kernels(std::string_view name);

}  // namespace vax::ops
