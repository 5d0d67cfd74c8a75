// LibTorch's CUDA operators on the host, with the same layouts, and what they demand of their
// arguments checked more strictly than LibTorch does (on a GPU a wrong alignment is a fault of the
// whole process). Sums in fp32, sequence by sequence with the scores in full.
#include "ops/device/library.h"

#include <ATen/ATen.h>

#include <functional>
#include <limits>
#include <vector>

#include "base/error.h"
#include "stream.h"
#include "torch_device.h"

namespace vax::ops::device {
namespace {

void check_matrix(const at::Tensor& matrix) {
  VAX_CHECK(matrix.stride(0) == 1 || matrix.stride(1) == 1 || matrix.numel() <= 1,
            "a matrix has strides ", matrix.strides());
}

bool is_aligned(const at::Tensor& rows) {
  return reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % 16 == 0 &&
         rows.stride(0) * rows.element_size() % 16 == 0;
}

void check_heads(const at::Tensor& heads, const AttentionInput& input, at::ScalarType type) {
  VAX_CHECK(heads.dim() == 3 && heads.size(0) == input.q_THK.size(0), "heads ", heads.sizes());
  VAX_CHECK(heads.scalar_type() == type, "heads are ", heads.scalar_type());
  VAX_CHECK(heads.size(2) % 8 == 0 && heads.size(2) <= 256 && heads.stride(2) == 1,
            "heads have dimension ", heads.size(2), " and strides ", heads.strides());
  VAX_CHECK(is_aligned(heads) && heads.stride(1) * heads.element_size() % 16 == 0,
            "heads begin at ", heads.const_data_ptr(), " with strides ", heads.strides());
}

int64_t offset(const AttentionInput& input, int64_t sequence) {
  return input.offsets.const_data_ptr<int32_t>()[sequence];
}
int64_t num_sequences(const AttentionInput& input) { return input.offsets.numel() - 1; }

void check_input(const AttentionInput& input, at::ScalarType type) {
  check_heads(input.q_THK, input, type);
  check_heads(input.k_TGK, input, type);
  check_heads(input.v_TGK, input, type);
  VAX_CHECK(input.q_THK.size(0) > 0 && num_sequences(input) > 0, "nothing to attend to");
  VAX_CHECK(input.offsets.scalar_type() == at::kInt && input.offsets.is_contiguous(), "offsets");
  VAX_CHECK(input.q_THK.size(1) % input.k_TGK.size(1) == 0, "heads and key heads");
}

void check_flash(const AttentionInput& input) {
  check_input(input, at::kBFloat16);
  VAX_CHECK(input.longest >= 2, "one token takes another path");
}

void check_efficient(const AttentionInput& input) {
  check_input(input, at::kFloat);
  VAX_CHECK(input.longest <= input.q_THK.size(0), "longest is ", input.longest);
  VAX_CHECK(input.q_THK.size(1) == input.k_TGK.size(1), "key heads must be repeated");
}

// What the backward kernels walk without strides.
void check_gradients(const at::Tensor& do_THK, const at::Tensor& o_THK,
                     const AttentionInput& input) {
  check_heads(do_THK, input, input.q_THK.scalar_type());
  check_heads(o_THK, input, input.q_THK.scalar_type());
  VAX_CHECK(do_THK.is_contiguous() && o_THK.is_contiguous(), "do and o must be contiguous");
}

// [H, L, K] in double of one sequence, once per query head.
at::Tensor heads_of(const at::Tensor& x_TGK, const AttentionInput& input, int64_t sequence) {
  const int64_t begin = offset(input, sequence), length = offset(input, sequence + 1) - begin;
  return x_TGK.narrow(0, begin, length)
      .to(at::kDouble)
      .repeat_interleave(input.q_THK.size(1) / x_TGK.size(1), 1)
      .transpose(0, 1);
}

// scale * q k^T of one sequence with -infinity in the future, [H, L, L].
at::Tensor scores(const AttentionInput& input, int64_t sequence) {
  const at::Tensor q = heads_of(input.q_THK, input, sequence);
  const at::Tensor k = heads_of(input.k_TGK, input, sequence);
  const at::Tensor future = at::ones({q.size(1), q.size(1)}, at::kBool).triu(1);
  return (at::matmul(q, k.transpose(1, 2)) * input.scale)
      .masked_fill(future, -std::numeric_limits<double>::infinity());
}

// Calls visit(sequence, first token, length) for those that have tokens.
template <typename Visit>
void for_sequences(const AttentionInput& input, const Visit& visit) {
  for (int64_t s = 0; s < num_sequences(input); ++s) {
    const int64_t begin = offset(input, s), length = offset(input, s + 1) - begin;
    VAX_CHECK(length <= input.longest, "sequence ", s, " is longer than ", input.longest);
    if (length > 0) visit(s, begin, length);
  }
}

void put(const at::Tensor& values_HLK, const at::Tensor& x_THK, int64_t begin) {
  x_THK.narrow(0, begin, values_HLK.size(1)).copy_(values_HLK.transpose(0, 1));
}

at::Tensor like(const at::Tensor& other) { return at::empty(other.sizes(), other.options()); }

AttentionInput for_device_code(const AttentionInput& input) {
  using standin::for_device_code;
  return {.q_THK = for_device_code(input.q_THK),
          .k_TGK = for_device_code(input.k_TGK),
          .v_TGK = for_device_code(input.v_TGK),
          .offsets = for_device_code(input.offsets),
          .longest = input.longest,
          .scale = input.scale};
}

// What follows is device code: forward() and backward() put it on the stream.

// lse(sequence, first token, length) is where [H, L] belongs.
using Lse = std::function<at::Tensor(int64_t, int64_t, int64_t)>;

void run_forward(const AttentionInput& input, const at::Tensor& o_THK, const Lse& lse_of) {
  for_sequences(input, [&](int64_t s, int64_t begin, int64_t length) {
    const at::Tensor z = scores(input, s), lse = at::logsumexp(z, 2);
    const at::Tensor p = at::exp(z - lse.unsqueeze(2));
    put(at::matmul(p, heads_of(input.v_TGK, input, s)), o_THK, begin);
    lse_of(s, begin, length).copy_(lse);
  });
}

void run_backward(const AttentionInput& input, const at::Tensor& do_THK, const at::Tensor& o_THK,
                  const Lse& lse_of, const AttentionGradients& grads) {
  const int64_t kv_heads = input.k_TGK.size(1);
  const auto put_keys = [&](const at::Tensor& x_HLK, const at::Tensor& to, int64_t begin) {
    put(x_HLK.unflatten(0, {kv_heads, -1}).sum(1), to, begin);
  };
  for_sequences(input, [&](int64_t s, int64_t begin, int64_t length) {
    const at::Tensor d_o = heads_of(do_THK, input, s), o = heads_of(o_THK, input, s);
    const at::Tensor p = at::exp(scores(input, s) - lse_of(s, begin, length).unsqueeze(2));
    const at::Tensor dp = at::matmul(d_o, heads_of(input.v_TGK, input, s).transpose(1, 2));
    const at::Tensor ds = p * (dp - (d_o * o).sum(2, /*keepdim=*/true)) * input.scale;
    put(at::matmul(ds, heads_of(input.k_TGK, input, s)), grads.dq_THK, begin);
    put_keys(at::matmul(ds.transpose(1, 2), heads_of(input.q_THK, input, s)), grads.dk_TGK, begin);
    put_keys(at::matmul(p.transpose(1, 2), d_o), grads.dv_TGK, begin);
  });
}

// flash: [H, T]
Lse part_of_all(const at::Tensor& lse_HT) {
  return
      [lse_HT](int64_t, int64_t begin, int64_t length) { return lse_HT.narrow(1, begin, length); };
}
// efficient: [sequences, H, padded]
Lse part_of_padded(const at::Tensor& lse) {
  return [lse](int64_t s, int64_t, int64_t length) { return lse[s].narrow(1, 0, length); };
}
Lse part_of_infinitely_padded(const at::Tensor& lse) {
  return [lse](int64_t s, int64_t, int64_t length) {
    const at::Tensor beyond = lse[s].narrow(1, length, lse.size(2) - length);
    VAX_CHECK((beyond == std::numeric_limits<float>::infinity()).all().item<bool>(),
              "lse beyond the end of sequence ", s, " must be infinite");
    return lse[s].narrow(1, 0, length);
  };
}

// --- Until here ----------------------------------------------------------------------------------

// parts(lse as device code sees it) gives Lse. New memory is NaN until it is written.
template <typename Parts>
AttentionOutput forward(const AttentionInput& input, at::IntArrayRef lse_sizes,
                        const Parts& parts) {
  const at::Tensor o = like(input.q_THK);
  const at::Tensor lse = at::empty(lse_sizes, o.options().dtype(at::kFloat));
  standin::submit(
      [input = for_device_code(input), o = standin::for_device_code(o),
       lse_of = parts(standin::for_device_code(lse))] { run_forward(input, o, lse_of); });
  return {o, lse};
}

template <typename Parts>
AttentionGradients backward(const AttentionInput& input, const at::Tensor& do_THK,
                            const at::Tensor& o_THK, const at::Tensor& lse, const Parts& parts) {
  using standin::for_device_code;
  const AttentionGradients grads{like(input.q_THK), like(input.k_TGK), like(input.v_TGK)};
  const AttentionGradients to{for_device_code(grads.dq_THK), for_device_code(grads.dk_TGK),
                              for_device_code(grads.dv_TGK)};
  standin::submit([input = device::for_device_code(input), d_o = for_device_code(do_THK),
                   o = for_device_code(o_THK), lse_of = parts(for_device_code(lse)),
                   to] { run_backward(input, d_o, o, lse_of, to); });
  return grads;
}

// What LibTorch's deterministic backward allocates besides its results, for what counts memory:
// sums of dq, one number a row and head, dk and dv once per query head.
class FlashScratch {
 public:
  explicit FlashScratch(const AttentionInput& input) {
    constexpr int64_t kProcessors = 132, kPaddingRows = 128, kDimMultiple = 32;
    const int64_t heads = input.q_THK.size(1), dim = input.q_THK.size(2);
    const int64_t rows = input.q_THK.size(0) + kPaddingRows * num_sequences(input);
    const int64_t groups = num_sequences(input) * heads;
    const auto number = input.q_THK.options().dtype(at::kFloat);
    sums_ = at::empty({(kProcessors + groups - 1) / groups, rows, heads,
                       (dim + kDimMultiple - 1) / kDimMultiple * kDimMultiple},
                      number);
    row_sums_ = at::empty({heads, rows}, number);
    if (input.k_TGK.size(1) != heads) expanded_ = {like(input.q_THK), like(input.q_THK)};
  }

 private:
  at::Tensor sums_, row_sums_;
  std::vector<at::Tensor> expanded_;
};

int64_t padded_length(const AttentionInput& input) {
  return (input.longest + kLseMultiple - 1) / kLseMultiple * kLseMultiple;
}

}  // namespace

void product_to_float(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN,
                      bool accumulate) {
  VAX_CHECK(a_MK.scalar_type() == at::kBFloat16 && b_KN.scalar_type() == at::kBFloat16 &&
                c_MN.scalar_type() == at::kFloat,
            "expected bf16 operands and an fp32 product");
  check_matrix(a_MK);
  check_matrix(b_KN);
  using standin::for_device_code;
  standin::submit([a_bf16 = for_device_code(a_MK), b_bf16 = for_device_code(b_KN),
                   c = for_device_code(c_MN), accumulate]() mutable {
    const at::Tensor a = a_bf16.to(at::kFloat), b = b_bf16.to(at::kFloat);
    if (accumulate) {
      c.addmm_(a, b);
    } else {
      at::mm_out(c, a, b);
    }
  });
}

AttentionOutput flash_attention(const AttentionInput& input) {
  check_flash(input);
  return forward(input, {input.q_THK.size(1), input.q_THK.size(0)}, part_of_all);
}

AttentionGradients flash_attention_backward(const AttentionInput& input, const at::Tensor& do_THK,
                                            const at::Tensor& o_THK, const at::Tensor& lse_HT) {
  check_flash(input);
  check_gradients(do_THK, o_THK, input);
  VAX_CHECK(lse_HT.is_contiguous() &&
                lse_HT.sizes() == at::IntArrayRef({input.q_THK.size(1), input.q_THK.size(0)}),
            "lse ", lse_HT.sizes());
  const FlashScratch scratch(input);
  return backward(input, do_THK, o_THK, lse_HT, part_of_all);
}

AttentionOutput efficient_attention(const AttentionInput& input) {
  check_efficient(input);
  return forward(input, {num_sequences(input), input.q_THK.size(1), padded_length(input)},
                 part_of_padded);
}

AttentionGradients efficient_attention_backward(const AttentionInput& input,
                                                const at::Tensor& do_THK, const at::Tensor& o_THK,
                                                const at::Tensor& lse) {
  check_efficient(input);
  check_gradients(do_THK, o_THK, input);
  VAX_CHECK(lse.is_contiguous() &&
                lse.sizes() == at::IntArrayRef({num_sequences(input), input.q_THK.size(1),
                                                padded_length(input)}),
            "lse ", lse.sizes());
  return backward(input, do_THK, o_THK, lse, part_of_infinitely_padded);
}

void scaled_product(const ScaledOperands& operands, const at::Tensor& bias_N, at::Tensor& c_MN) {
  const int64_t rows = c_MN.size(0), cols = c_MN.size(1), inner = operands.a_MK.size(1);
  VAX_CHECK(operands.a_MK.scalar_type() == at::kFloat8_e4m3fn &&
                operands.b_KN.scalar_type() == at::kFloat8_e4m3fn &&
                c_MN.scalar_type() == at::kBFloat16,
            "expected e4m3 operands and a bf16 product");
  VAX_CHECK(rows > 0 && inner % 16 == 0 && cols % 16 == 0, "product of [", rows, ", ", inner,
            "] and [", inner, ", ", cols, "]");
  VAX_CHECK(operands.a_MK.is_contiguous() && operands.b_KN.t().is_contiguous() &&
                operands.b_KN.sizes() == at::IntArrayRef({inner, cols}),
            "b has strides ", operands.b_KN.strides());
  VAX_CHECK(operands.scale_a_M1.sizes() == at::IntArrayRef({rows, 1}) &&
                operands.scale_b_1N.sizes() == at::IntArrayRef({1, cols}) &&
                operands.scale_a_M1.is_contiguous() && operands.scale_b_1N.is_contiguous(),
            "scales ", operands.scale_a_M1.sizes(), " and ", operands.scale_b_1N.sizes());
  VAX_CHECK(is_aligned(c_MN) && c_MN.stride(1) == 1, "c has strides ", c_MN.strides());
  using standin::for_device_code;
  standin::submit([a = for_device_code(operands.a_MK), b = for_device_code(operands.b_KN),
                   scale_a = for_device_code(operands.scale_a_M1),
                   scale_b = for_device_code(operands.scale_b_1N), bias = for_device_code(bias_N),
                   c = for_device_code(c_MN)] {
    at::Tensor product = at::mm(a.to(at::kFloat), b.to(at::kFloat)).mul_(scale_a).mul_(scale_b);
    if (bias.defined()) product += bias.to(at::kFloat);
    c.copy_(product);
  });
}

}  // namespace vax::ops::device
