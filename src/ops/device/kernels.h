// Launches of the pointwise kernels, norms, sums, tables and the optimizer: plain pointers, sizes,
// and the stream (cudaStream_t) at the end. Pointers are device memory. Shapes and types have been
// checked; no rows or no elements: nothing happens. Results are the same bits for the same inputs.
#pragma once

#include <cstdint>

#include "ops/kernels/table.h"

namespace vax::ops::device {

void launch_swiglu_forward(const SwigluArgs& args, int64_t rows, void* stream);
void launch_swiglu_backward(const SwigluArgs& args, int64_t rows, void* stream);
void launch_rotary(const RotaryArgs& args, int64_t rows, void* stream);

void launch_rms_norm_forward(const RmsNormArgs& args, int64_t rows, void* stream);
void launch_rms_norm_apply(const RmsNormArgs& args, int64_t rows, void* stream);
// Where dw [cols] is wanted, `partials` has rms_norm_partials(rows) rows of cols floats, which are
// written; else it is null. launch_add_partials() makes dw of them.
int64_t rms_norm_partials(int64_t rows);
void launch_rms_norm_backward(const RmsNormBackwardArgs& args, int64_t rows, float* partials,
                              void* stream);
// sum [cols] (+)= the sums over `rows` rows of partials [rows, cols]: rows r, r + 32, ... first,
// then those 32 sums in order.
void launch_add_partials(const float* partials, int64_t rows, int64_t cols, float* sum,
                         bool accumulate, void* stream);

// `scale`: one element, read as fp32; 0 changes nothing. Null: h = x + added. args.scale is not
// read.
void launch_add_scaled(const AddScaledArgs& args, int64_t rows, const double* scale, void* stream);
// row_squares [rows] is written.
void launch_copy_with_squares(int64_t cols, ConstRows grad, Rows kept, int64_t rows,
                              float* row_squares, void* stream);
// row_sums [3, rows] is written: a b, a a, b b.
void launch_cosine_sums(ConstRows a, ConstRows b, int64_t rows, int64_t cols, float* row_sums,
                        void* stream);
// partials [square_partials(count)] is written: squares of runs of elements, 16 at a time in fp32,
// then in fp64.
int64_t square_partials(int64_t count);
void launch_squares(const float* x, int64_t count, double* partials, void* stream);
// sums[i] += sum of values[i * count, (i + 1) * count) in fp64, for i < num_sums. Thread t of 1024
// adds elements t, t + 1024, ... in order, then the threads are joined as block_sum() does.
void launch_add_totals(const float* values, int64_t count, int num_sums, double* sums,
                       void* stream);
void launch_add_totals(const double* values, int64_t count, int num_sums, double* sums,
                       void* stream);

// x[t] = w[ids[t]].
void launch_embedding_forward(const int64_t* ids, ConstRows w, int64_t rows, int64_t cols, Rows x,
                              void* stream);
// sorted_ids: ids in ascending order; order: the token of each. Tokens of one id are added to dw in
// the order of `order`.
struct EmbeddingBackwardArgs {
  int64_t rows, cols;
  ConstRows dx;  // fp32
  const int64_t *sorted_ids, *order;
  Rows dw;  // fp32
};
void launch_embedding_backward(const EmbeddingBackwardArgs& args, void* stream);

// Per row: losses[row] = logsumexp(z) - z[target]; z becomes scale * (softmax(z) - onehot) when
// with_gradient. Target -1: the loss and the gradient are 0.
struct CrossEntropyRows {
  int64_t cols;
  Rows z;
  const int64_t* targets;
  const double* scale;  // one element
  bool with_gradient;
  double* losses;
};
void launch_cross_entropy(const CrossEntropyRows& args, int64_t rows, void* stream);

void launch_adamw(const AdamWArgs& args, int64_t count, void* stream);

}  // namespace vax::ops::device
