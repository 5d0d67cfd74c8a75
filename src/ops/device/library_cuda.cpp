// LibTorch 2.11's CUDA operators. What is relied upon and cannot be read off their signatures is
// said beside each call.
#include "ops/device/library.h"

#include <ATen/Context.h>
#include <ATen/ops/_efficient_attention_backward.h>
#include <ATen/ops/_efficient_attention_forward.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_mm.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <optional>

namespace vax::ops::device {
namespace {

// Deterministic algorithms for the calls in its scope only: program-wide, every new tensor would be
// filled, and operators without such an algorithm would throw.
class DeterministicScope {
 public:
  DeterministicScope()
      : context_(at::globalContext()),
        algorithms_(context_.deterministicAlgorithms()),
        warn_only_(context_.deterministicAlgorithmsWarnOnly()),
        fill_(context_.deterministicFillUninitializedMemory()) {
    context_.setDeterministicAlgorithms(true, false);
    context_.setDeterministicFillUninitializedMemory(false);
  }
  ~DeterministicScope() {
    context_.setDeterministicAlgorithms(algorithms_, warn_only_);
    context_.setDeterministicFillUninitializedMemory(fill_);
  }
  DeterministicScope(const DeterministicScope&) = delete;
  DeterministicScope& operator=(const DeterministicScope&) = delete;

 private:
  at::Context& context_;
  bool algorithms_, warn_only_, fill_;
};

constexpr double kNoDropout = 0;
constexpr int64_t kCausalFromTopLeft = 1;  // sdp::CustomMaskType

// One sequence after the other, as a batch of one.
at::Tensor batched(const at::Tensor& x_THK) { return x_THK.unsqueeze(0); }

// What dropout would have drawn from; not read without dropout.
at::Tensor unused_state(const at::Tensor& like, at::ScalarType type) {
  return at::empty({2}, like.options().dtype(type));
}

}  // namespace

// The overloads with an fp32 result hand bf16 operands to cuBLAS with an fp32 C; `out` and `self`
// may be one tensor.
void product_to_float(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN,
                      bool accumulate) {
  if (accumulate) {
    at::addmm_out(c_MN, c_MN, a_MK, b_KN, at::kFloat);
  } else {
    at::mm_out(c_MN, a_MK, b_KN, at::kFloat);
  }
}

// Only the strides of rows and heads are handed to the kernel, so views into a wider matrix do.
AttentionOutput flash_attention(const AttentionInput& input) {
  auto result = at::_flash_attention_forward(
      input.q_THK, input.k_TGK, input.v_TGK, input.offsets, input.offsets, input.longest,
      input.longest, kNoDropout, /*is_causal=*/true, /*return_debug_mask=*/false, input.scale);
  return {std::get<0>(result), std::get<1>(result)};
}

// Deterministic: each block of keys adds dq to a copy of its own, and the copies are added in
// order; otherwise by atomics.
AttentionGradients flash_attention_backward(const AttentionInput& input, const at::Tensor& do_THK,
                                            const at::Tensor& o_THK, const at::Tensor& lse_HT) {
  const DeterministicScope deterministic;
  const at::Tensor unused = unused_state(input.q_THK, at::kUInt64);
  auto [dq, dk, dv] = at::_flash_attention_backward(
      do_THK, input.q_THK, input.k_TGK, input.v_TGK, o_THK, lse_HT, input.offsets, input.offsets,
      input.longest, input.longest, kNoDropout, /*is_causal=*/true, unused, unused, input.scale);
  return {dq, dk, dv};
}

AttentionOutput efficient_attention(const AttentionInput& input) {
  auto result = at::_efficient_attention_forward(
      batched(input.q_THK), batched(input.k_TGK), batched(input.v_TGK), /*bias=*/std::nullopt,
      input.offsets, input.offsets, input.longest, input.longest, kNoDropout, kCausalFromTopLeft,
      /*compute_log_sumexp=*/true, input.scale);
  return {std::get<0>(result).squeeze(0), std::get<1>(result)};
}

// One split of the keys: the sums have one order, and no atomics are used.
AttentionGradients efficient_attention_backward(const AttentionInput& input,
                                                const at::Tensor& do_THK, const at::Tensor& o_THK,
                                                const at::Tensor& lse) {
  constexpr int64_t kOneSplit = 1;
  const at::Tensor unused = unused_state(input.q_THK, at::kLong);
  auto result = at::_efficient_attention_backward(
      batched(do_THK), batched(input.q_THK), batched(input.k_TGK), batched(input.v_TGK),
      /*bias=*/std::nullopt, batched(o_THK), input.offsets, input.offsets, input.longest,
      input.longest, lse, kNoDropout, unused, unused, kCausalFromTopLeft,
      /*bias_requires_grad=*/false, input.scale, kOneSplit);
  return {std::get<0>(result).squeeze(0), std::get<1>(result).squeeze(0),
          std::get<2>(result).squeeze(0)};
}

void scaled_product(const ScaledOperands& operands, const at::Tensor& bias_N, at::Tensor& c_MN) {
  const auto bias = bias_N.defined() ? std::make_optional(bias_N) : std::nullopt;
  at::_scaled_mm_out(c_MN, operands.a_MK, operands.b_KN, operands.scale_a_M1, operands.scale_b_1N,
                     bias, /*scale_result=*/std::nullopt, at::kBFloat16, operands.fast_sums);
}

}  // namespace vax::ops::device
