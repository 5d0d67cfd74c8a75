// LibTorch's operators that exist for CUDA alone, as plain functions: CUDA programs call LibTorch
// (library_cuda.cpp), the tests' stand-in has the same conventions and the same demands on its
// arguments, in plain loops on the host (tests/standin/device/library_standin.cpp).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace vax::ops::device {

// C (+)= A B for bf16 operands and an fp32 C, one rounding. A, B: rows or columns contiguous; C:
// rows contiguous, perhaps strided.
void product_to_float(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN,
                      bool accumulate);

// Causal attention of packed sequences. q [T, H, K], k and v [T, G, K]: K contiguous, a multiple of
// 8 and at most 256; rows and heads begin at multiples of 16 bytes (no operator checks that of
// rows). T > 0.
struct AttentionInput {
  at::Tensor q_THK, k_TGK, v_TGK;
  at::Tensor offsets;   // [sequences + 1] int32, contiguous; a sequence may be empty
  int64_t longest = 0;  // no sequence has more tokens; 2 or more (flash), at most T (efficient)
  double scale = 0;
};
struct AttentionOutput {
  at::Tensor o_THK;  // new, contiguous
  at::Tensor lse;    // new, contiguous, fp32: natural logarithms
};
struct AttentionGradients {
  at::Tensor dq_THK, dk_TGK, dv_TGK;  // new, contiguous
};

// bf16; H a multiple of G. lse [H, T].
AttentionOutput flash_attention(const AttentionInput& input);
AttentionGradients flash_attention_backward(const AttentionInput& input, const at::Tensor& do_THK,
                                            const at::Tensor& o_THK, const at::Tensor& lse_HT);

// fp32; H = G. lse [sequences, H, longest rounded up to a multiple of 32]; what lies beyond a
// sequence's end must be infinite for the backward, and is not defined after the forward.
constexpr int64_t kLseMultiple = 32;
AttentionOutput efficient_attention(const AttentionInput& input);
AttentionGradients efficient_attention_backward(const AttentionInput& input,
                                                const at::Tensor& do_THK, const at::Tensor& o_THK,
                                                const at::Tensor& lse);

// C = (scale_a * A) (scale_b * B) + bias, bf16, from 8-bit floats (e4m3). a [M, K] contiguous, b
// [K, N] the transpose of a contiguous matrix, K and N multiples of 16; scales fp32 [M, 1] and [1,
// N], contiguous; bias [N] bf16 or undefined; c: rows contiguous and at multiples of 16 bytes.
struct ScaledOperands {
  at::Tensor a_MK, b_KN, scale_a_M1, scale_b_1N;
  // Sums stay in the tensor core's own registers, which have fewer bits than fp32: faster, with
  // errors far below those of e4m3 itself.
  bool fast_sums = false;
};
void scaled_product(const ScaledOperands& operands, const at::Tensor& bias_N, at::Tensor& c_MN);

}  // namespace vax::ops::device
