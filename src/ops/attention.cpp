// On the CPU one task is one key/value head of one sequence with all its query heads, so that no
// two tasks add to the same dk and dv. Tasks are ordered head by head: an even split over threads
// then gives each the same sequences, however uneven their lengths. A task walks blocks of query
// rows; the scores of a block cover only the keys up to its last row (rows x keys floats, the
// largest scratch).
//
// On a device LibTorch computes: flash attention in bf16, its memory-efficient attention in fp32
// (which flash attention does not know). q, k and v are views of the fused matrix; what LibTorch
// allocates (o, dq, dk, dv) is copied to where it belongs, one pass over memory each way. lse holds
// the logarithms as [H, T].
#include "ops/attention.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/error.h"
#include "base/narrow.h"
#include "ops/device/library.h"
#include "ops/device/runtime.h"
#include "ops/float_rows.h"
#include "ops/gemm.h"
#include "ops/parallel.h"
#include "ops/rows.h"
#include "ops/scratch.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

constexpr int64_t kQueryBlock = 64;

void check_shape(const AttentionShape& shape) {
  VAX_CHECK(shape.num_kv_heads > 0 && shape.num_heads > 0 && shape.head_dim > 0 &&
                shape.num_heads % shape.num_kv_heads == 0,
            shape.num_heads, " query heads of dimension ", shape.head_dim,
            " must be a multiple of ", shape.num_kv_heads, " key heads");
  VAX_CHECK(shape.scale > 0, "scale is ", shape.scale, ", expected a positive number");
}

void check_offsets(std::span<const int32_t> offsets, int64_t num_tokens) {
  VAX_CHECK(!offsets.empty() && offsets.front() == 0 && offsets.back() == num_tokens,
            "offsets must go from 0 to ", num_tokens);
  VAX_CHECK(std::is_sorted(offsets.begin(), offsets.end()), "offsets must not decrease");
}

void check_tensors(const at::Tensor& qkv_TC, const at::Tensor& o_TC, const at::Tensor& lse_TH,
                   const AttentionShape& shape) {
  check_shape(shape);
  VAX_CHECK(qkv_TC.dim() == 2, "qkv has shape ", qkv_TC.sizes(), ", expected [T, (H + 2 KV) K]");
  const int64_t num_tokens = qkv_TC.size(0);
  const int64_t columns = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim;
  check_tensor(qkv_TC, "qkv", {num_tokens, columns}, Types::kFloatOrBf16);
  check_tensor(o_TC, "o", {num_tokens, shape.num_heads * shape.head_dim}, Types::kFloatOrBf16);
  check_same_type(o_TC, "o", qkv_TC, "qkv");
  check_tensor(lse_TH, "lse", {num_tokens, shape.num_heads}, Types::kFloat);
}

GemmOperand plain(const float* data, int64_t stride) {
  return {{data, Elem::kFloat, stride}, false};
}
GemmOperand transposed(const float* data, int64_t stride) {
  return {{data, Elem::kFloat, stride}, true};
}
GemmOperand plain(FloatRows::View view) { return plain(view.data, view.stride); }
GemmOperand transposed(FloatRows::View view) { return transposed(view.data, view.stride); }

// The products of one thread.
class Products {
 public:
  struct Size {
    int64_t rows, cols, inner;
  };
  // c [rows, cols] = a b
  void write(Size size, GemmOperand a, GemmOperand b, float* c, int64_t stride, float alpha = 1) {
    run(size, a, b, c, stride, alpha, false);
  }
  // c += alpha a b
  void add(Size size, GemmOperand a, GemmOperand b, float* c, int64_t stride, float alpha = 1) {
    run(size, a, b, c, stride, alpha, true);
  }

 private:
  void run(Size size, GemmOperand a, GemmOperand b, float* c, int64_t stride, float alpha,
           bool accumulate) {
    gemm({.rows = size.rows,
          .cols = size.cols,
          .inner = size.inner,
          .a = a,
          .b = b,
          .c = c,
          .c_stride = stride,
          .alpha = alpha,
          .accumulate = accumulate,
          .scratch = &scratch_});
  }

  PanelScratch scratch_;
};

// What both directions know, and where heads lie in the fused matrix.
struct Problem {
  AttentionShape shape;
  std::span<const int32_t> offsets;
  ConstRows qkv, o;
  int64_t lse_stride;
  int64_t longest = 0;

  Problem(const AttentionShape& s, std::span<const int32_t> sequence_offsets,
          const at::Tensor& qkv_TC, const at::Tensor& o_TC, const at::Tensor& lse_TH)
      : shape(s),
        offsets(sequence_offsets),
        qkv(const_rows(qkv_TC)),
        o(const_rows(o_TC)),
        lse_stride(lse_TH.stride(0)) {
    for (size_t i = 1; i < offsets.size(); ++i) {
      longest = std::max<int64_t>(longest, offsets[i] - offsets[i - 1]);
    }
  }
  int64_t num_sequences() const { return std::ssize(offsets) - 1; }
  int64_t num_tasks() const { return num_sequences() * shape.num_kv_heads; }
  int64_t group() const { return shape.num_heads / shape.num_kv_heads; }
  int64_t head_col(int64_t head) const { return head * shape.head_dim; }
  int64_t key_col(int64_t kv) const { return (shape.num_heads + kv) * shape.head_dim; }
  int64_t value_col(int64_t kv) const { return key_col(shape.num_kv_heads + kv); }
  int64_t scores_stride() const { return round_up<int64_t>(longest, 16); }
};

struct Task {
  int64_t kv, begin, length;
};

template <typename Body>
void for_tasks(const Problem& problem, int64_t first, int64_t last, Body body) {
  for (int64_t task = first; task < last; ++task) {
    const auto sequence = static_cast<size_t>(task % problem.num_sequences());
    const int64_t begin = problem.offsets[sequence];
    const int64_t length = problem.offsets[sequence + 1] - begin;
    if (length > 0) body(Task{task / problem.num_sequences(), begin, length});
  }
}

// Per-thread state of the forward.
class Forward {
 public:
  Forward(const Problem& problem, Rows o, float* lse)
      : problem_(problem),
        o_(o),
        lse_(lse),
        scores_(float_scratch(kQueryBlock * problem.scores_stride())),
        inv_sum_(float_scratch(kQueryBlock)),
        out_(float_scratch(kQueryBlock * problem.shape.head_dim)) {}

  void run(const Task& task) {
    const int64_t dim = problem_.shape.head_dim;
    const auto k =
        k_.get(from(problem_.qkv, task.begin, problem_.key_col(task.kv)), task.length, dim);
    const auto v =
        v_.get(from(problem_.qkv, task.begin, problem_.value_col(task.kv)), task.length, dim);
    for (int64_t i = 0; i < problem_.group(); ++i) {
      for (int64_t row = 0; row < task.length; row += kQueryBlock) {
        run_block(task, task.kv * problem_.group() + i, row, k, v);
      }
    }
  }

 private:
  void run_block(const Task& task, int64_t head, int64_t row, FloatRows::View k,
                 FloatRows::View v) {
    const int64_t dim = problem_.shape.head_dim, stride = problem_.scores_stride();
    const int64_t rows = std::min(kQueryBlock, task.length - row), keys = row + rows;
    const int64_t token = task.begin + row;
    const auto q = q_.get(from(problem_.qkv, token, problem_.head_col(head)), rows, dim);
    products_.write({rows, keys, dim}, plain(q), transposed(k), scores_.data(), stride);
    attention_kernels.cpu().causal_softmax({.rows = rows,
                                            .cols = keys,
                                            .scores = scores_.data(),
                                            .stride = stride,
                                            .first_length = row + 1,
                                            .scale = static_cast<float>(problem_.shape.scale),
                                            .lse_stride = problem_.lse_stride},
                                           inv_sum_.data(),
                                           lse_ + token * problem_.lse_stride + head);
    products_.write({rows, dim, keys}, plain(scores_.data(), stride), plain(v), out_.data(), dim);
    rows_kernels.cpu().convert({.cols = dim,
                                .src = {out_.data(), Elem::kFloat, dim},
                                .dst = from(o_, token, problem_.head_col(head)),
                                .row_scale = inv_sum_.data()},
                               rows);
  }

  const Problem& problem_;
  Rows o_;
  float* lse_;
  Products products_;
  FloatRows q_, k_, v_;
  FloatScratch scores_, inv_sum_, out_;
};

// Per-thread state of the backward.
class Backward {
 public:
  Backward(const Problem& problem, ConstRows d_o, const float* lse, Rows dqkv)
      : problem_(problem),
        do_(d_o),
        lse_(lse),
        dqkv_(dqkv),
        p_(float_scratch(kQueryBlock * problem.scores_stride())),
        ds_(float_scratch(kQueryBlock * problem.scores_stride())),
        delta_(float_scratch(kQueryBlock)),
        dq_(float_scratch(kQueryBlock * problem.shape.head_dim)),
        dk_(float_scratch(problem.longest * problem.shape.head_dim)),
        dv_(float_scratch(problem.longest * problem.shape.head_dim)) {}

  void run(const Task& task) {
    const int64_t dim = problem_.shape.head_dim;
    const int64_t key_col = problem_.key_col(task.kv), value_col = problem_.value_col(task.kv);
    const auto k = k_.get(from(problem_.qkv, task.begin, key_col), task.length, dim);
    const auto v = v_.get(from(problem_.qkv, task.begin, value_col), task.length, dim);
    std::fill_n(dk_.begin(), task.length * dim, 0.0f);
    std::fill_n(dv_.begin(), task.length * dim, 0.0f);
    for (int64_t i = 0; i < problem_.group(); ++i) {
      for (int64_t row = 0; row < task.length; row += kQueryBlock) {
        run_block(task, task.kv * problem_.group() + i, row, k, v);
      }
    }
    write(dk_, task.length, task.begin, key_col);
    write(dv_, task.length, task.begin, value_col);
  }

 private:
  void run_block(const Task& task, int64_t head, int64_t row, FloatRows::View k,
                 FloatRows::View v) {
    const int64_t dim = problem_.shape.head_dim, stride = problem_.scores_stride();
    const int64_t rows = std::min(kQueryBlock, task.length - row), keys = row + rows;
    const int64_t token = task.begin + row, col = problem_.head_col(head);
    const auto scale = static_cast<float>(problem_.shape.scale);
    const auto q = q_.get(from(problem_.qkv, token, col), rows, dim);
    const auto d_o = do_rows_.get(from(do_, token, col), rows, dim);
    rows_kernels.cpu().row_dots(from(do_, token, col), from(problem_.o, token, col), rows, dim,
                                delta_.data());
    products_.write({rows, keys, dim}, plain(q), transposed(k), p_.data(), stride);
    products_.write({rows, keys, dim}, plain(d_o), transposed(v), ds_.data(), stride);
    attention_kernels.cpu().causal_softmax_backward({.rows = rows,
                                                     .cols = keys,
                                                     .scores = p_.data(),
                                                     .stride = stride,
                                                     .first_length = row + 1,
                                                     .scale = scale,
                                                     .lse_stride = problem_.lse_stride},
                                                    lse_ + token * problem_.lse_stride + head,
                                                    delta_.data(), ds_.data());
    products_.add({keys, dim, rows}, transposed(p_.data(), stride), plain(d_o), dv_.data(), dim);
    products_.add({keys, dim, rows}, transposed(ds_.data(), stride), plain(q), dk_.data(), dim,
                  scale);
    products_.write({rows, dim, keys}, plain(ds_.data(), stride), plain(k), dq_.data(), dim, scale);
    write(dq_, rows, token, col);
  }

  void write(const FloatScratch& grad, int64_t rows, int64_t token, int64_t col) {
    const int64_t dim = problem_.shape.head_dim;
    rows_kernels.cpu().convert(
        {.cols = dim, .src = {grad.data(), Elem::kFloat, dim}, .dst = from(dqkv_, token, col)},
        rows);
  }

  const Problem& problem_;
  ConstRows do_;
  const float* lse_;
  Rows dqkv_;
  Products products_;
  FloatRows q_, k_, v_, do_rows_;
  FloatScratch p_, ds_, delta_, dq_, dk_, dv_;
};

// --- On a device ---------------------------------------------------------------------------------

constexpr int64_t kDimMultiple = 8;

int64_t padded_dim(int64_t head_dim) {
  return (head_dim + kDimMultiple - 1) / kDimMultiple * kDimMultiple;
}

bool begins_rows_aligned(const at::Tensor& x_THK) {
  constexpr int64_t kAlignment = 16;  // bytes, of the kernels' loads
  return reinterpret_cast<uintptr_t>(x_THK.const_data_ptr()) % kAlignment == 0 &&
         x_THK.stride(0) * x_THK.element_size() % kAlignment == 0;
}

// Heads as the kernels take them: zeros pad their dimension, which changes no score and no other
// result; rows that begin elsewhere than they may are copied.
at::Tensor kernel_heads(const at::Tensor& x_THK) {
  const int64_t head_dim = x_THK.size(2), padding = padded_dim(head_dim) - head_dim;
  if (padding > 0) return at::constant_pad_nd(x_THK, {0, padding});
  return begins_rows_aligned(x_THK) ? x_THK : x_THK.contiguous();
}

// [T, heads, K] of columns from `first` head on.
at::Tensor heads_of(const at::Tensor& x_TC, const AttentionShape& shape, int64_t first,
                    int64_t count) {
  return x_TC.narrow(1, first * shape.head_dim, count * shape.head_dim)
      .unflatten(1, {count, shape.head_dim});
}

at::Tensor query_heads(const at::Tensor& x_TC, const AttentionShape& shape) {
  return kernel_heads(heads_of(x_TC, shape, 0, shape.num_heads));
}

// Each key head once per query head.
at::Tensor repeated(const at::Tensor& x_TGK, int64_t times) {
  return times == 1 ? x_TGK : at::repeat_interleave(x_TGK, times, 1);
}
at::Tensor summed(const at::Tensor& x_THK, int64_t times) {
  return times == 1 ? x_THK : x_THK.unflatten(1, {-1, times}).sum(2);
}

bool is_float(const at::Tensor& qkv_TC) { return qkv_TC.scalar_type() == at::kFloat; }

device::AttentionInput attention_input(const at::Tensor& qkv_TC, const AttentionShape& shape,
                                       const SequenceOffsets& sequences) {
  const auto num_offsets = static_cast<int64_t>(sequences.offsets.size());
  VAX_CHECK(num_offsets > 1 && sequences.longest > 0,
            "attention on a device needs its sequences and the length of the longest, not ",
            num_offsets - 1, " sequences of at most ", sequences.longest, " tokens");
  const int64_t heads = shape.num_heads, kv_heads = shape.num_kv_heads;
  device::AttentionInput input{
      .q_THK = query_heads(qkv_TC, shape),
      .k_TGK = kernel_heads(heads_of(qkv_TC, shape, heads, kv_heads)),
      .v_TGK = kernel_heads(heads_of(qkv_TC, shape, heads + kv_heads, kv_heads)),
      // LibTorch only reads them.
      .offsets = at::for_blob(const_cast<int32_t*>(sequences.offsets.data()), {num_offsets})
                     .options(qkv_TC.options().dtype(at::kInt))
                     .target_device(qkv_TC.device())
                     .make_tensor(),
      .longest = sequences.longest,
      .scale = shape.scale};
  if (is_float(qkv_TC)) {
    input.k_TGK = repeated(input.k_TGK, heads / kv_heads);
    input.v_TGK = repeated(input.v_TGK, heads / kv_heads);
    input.longest = std::min(input.longest, qkv_TC.size(0));
  } else {
    // Sequences of one token have another path in LibTorch, with another lse and without empty
    // sequences.
    input.longest = std::max<int64_t>(input.longest, 2);
  }
  return input;
}

LseArgs lse_args(const device::AttentionInput& input) {
  return {.offsets = input.offsets.const_data_ptr<int32_t>(),
          .num_sequences = input.offsets.size(0) - 1,
          .num_heads = input.q_THK.size(1),
          .num_tokens = input.q_THK.size(0),
          .padded_length = (input.longest + device::kLseMultiple - 1) / device::kLseMultiple *
                           device::kLseMultiple};
}

at::Tensor padded_lse(const device::AttentionInput& input, const at::Tensor& lse_TH) {
  const LseArgs args = lse_args(input);
  at::Tensor padded =
      at::empty({args.num_sequences, args.num_heads, args.padded_length}, lse_TH.options());
  attention_kernels.device().pad_lse(args, lse_TH.const_data_ptr<float>(),
                                     padded.mutable_data_ptr<float>());
  return padded;
}

// Without the padding of heads: [T, heads * K].
at::Tensor columns(const at::Tensor& x_THK, const AttentionShape& shape) {
  return x_THK.narrow(2, 0, shape.head_dim).flatten(1);
}

void forward_on_device(const at::Tensor& qkv_TC, const AttentionShape& shape,
                       const SequenceOffsets& sequences, at::Tensor& o_TC, at::Tensor& lse_TH) {
  if (qkv_TC.size(0) == 0) return;
  VAX_CHECK(lse_TH.is_contiguous(), "lse must be contiguous");
  const device::AttentionInput input = attention_input(qkv_TC, shape, sequences);
  device::AttentionOutput output;
  if (is_float(qkv_TC)) {
    output = device::efficient_attention(input);
    attention_kernels.device().pack_lse(lse_args(input), output.lse.const_data_ptr<float>(),
                                        lse_TH.mutable_data_ptr<float>());
  } else {
    output = device::flash_attention(input);
    lse_TH.view({shape.num_heads, qkv_TC.size(0)}).copy_(output.lse);
  }
  o_TC.copy_(columns(output.o_THK, shape));
}

void backward_on_device(const at::Tensor& do_TC, const at::Tensor& qkv_TC, const at::Tensor& o_TC,
                        const at::Tensor& lse_TH, const AttentionShape& shape,
                        const SequenceOffsets& sequences, at::Tensor& dqkv_TC) {
  if (qkv_TC.size(0) == 0) return;
  VAX_CHECK(lse_TH.is_contiguous(), "lse must be contiguous");
  const device::AttentionInput input = attention_input(qkv_TC, shape, sequences);
  // Both kernels want these two without gaps.
  const at::Tensor d_o = query_heads(do_TC, shape).contiguous();
  const at::Tensor o = query_heads(o_TC, shape).contiguous();
  device::AttentionGradients grads;
  if (is_float(qkv_TC)) {
    grads = device::efficient_attention_backward(input, d_o, o, padded_lse(input, lse_TH));
    const int64_t times = shape.num_heads / shape.num_kv_heads;
    grads.dk_TGK = summed(grads.dk_TGK, times);
    grads.dv_TGK = summed(grads.dv_TGK, times);
  } else {
    grads = device::flash_attention_backward(input, d_o, o,
                                             lse_TH.view({shape.num_heads, qkv_TC.size(0)}));
  }
  at::cat_out(
      dqkv_TC,
      {columns(grads.dq_THK, shape), columns(grads.dk_TGK, shape), columns(grads.dv_TGK, shape)},
      1);
}

}  // namespace

void attention_forward(const at::Tensor& qkv_TC, const AttentionShape& shape,
                       const SequenceOffsets& sequences, at::Tensor& o_TC, at::Tensor& lse_TH) {
  check_tensors(qkv_TC, o_TC, lse_TH, shape);
  if (device::takes(qkv_TC)) return forward_on_device(qkv_TC, shape, sequences, o_TC, lse_TH);
  const std::span<const int32_t> offsets = sequences.offsets;
  check_offsets(offsets, qkv_TC.size(0));
  const Problem problem(shape, offsets, qkv_TC, o_TC, lse_TH);
  const Rows o = mutable_rows(o_TC);
  float* lse = lse_TH.mutable_data_ptr<float>();
  parallel_for(0, problem.num_tasks(), 1, [&](int64_t first, int64_t last) {
    Forward forward(problem, o, lse);
    for_tasks(problem, first, last, [&](const Task& task) { forward.run(task); });
  });
}

void attention_backward(const at::Tensor& do_TC, const at::Tensor& qkv_TC, const at::Tensor& o_TC,
                        const at::Tensor& lse_TH, const AttentionShape& shape,
                        const SequenceOffsets& sequences, at::Tensor& dqkv_TC) {
  check_tensors(qkv_TC, o_TC, lse_TH, shape);
  check_tensor(do_TC, "do", o_TC.sizes(), Types::kFloatOrBf16);
  check_tensor(dqkv_TC, "dqkv", qkv_TC.sizes(), Types::kFloatOrBf16);
  check_same_type(do_TC, "do", qkv_TC, "qkv");
  check_same_type(dqkv_TC, "dqkv", qkv_TC, "qkv");
  if (device::takes(qkv_TC))
    return backward_on_device(do_TC, qkv_TC, o_TC, lse_TH, shape, sequences, dqkv_TC);
  const std::span<const int32_t> offsets = sequences.offsets;
  check_offsets(offsets, qkv_TC.size(0));
  const Problem problem(shape, offsets, qkv_TC, o_TC, lse_TH);
  const ConstRows d_o = const_rows(do_TC);
  const Rows dqkv = mutable_rows(dqkv_TC);
  const float* lse = lse_TH.const_data_ptr<float>();
  parallel_for(0, problem.num_tasks(), 1, [&](int64_t first, int64_t last) {
    Backward backward(problem, d_o, lse, dqkv);
    for_tasks(problem, first, last, [&](const Task& task) { backward.run(task); });
  });
}

}  // namespace vax::ops
