// Everything that is compiled once per instruction set, and the table of it. Included by
// target_*.cpp only, which are compiled with that set's flags.
//
// Invariant: nothing here may include a header with inline functions or templates of external
// linkage outside the target's namespace (most of the standard library): the linker keeps one copy
// of such a function, and it could be the one that needs AVX-512.
#include <stdint.h>

#include "ops/kernels/targets.h"
// order matters: vec.inl first
#include "ops/kernels/vec.inl"

#include "ops/kernels/adamw.inl"
#include "ops/kernels/dropout.inl"
#include "ops/kernels/gemm.inl"
#include "ops/kernels/hidden_state.inl"
#include "ops/kernels/norm.inl"
#include "ops/kernels/pointwise.inl"
#include "ops/kernels/softmax.inl"
#include "ops/kernels/thin.inl"

#define VAX_STRING_OF(x) #x
#define VAX_STRING(x) VAX_STRING_OF(x)

namespace vax::ops::VAX_KERNEL_TARGET {

const KernelTable& table() {
  static constexpr KernelTable kTable = {
      .name = VAX_STRING(VAX_KERNEL_TARGET),
      .rms_norm_forward = rms_norm_forward,
      .rms_norm_apply = rms_norm_apply,
      .rms_norm_backward = rms_norm_backward,
      .column_sums = column_sums,
      .row_dots = row_dots,
      .swiglu_forward = swiglu_forward,
      .swiglu_backward = swiglu_backward,
      .rotary = rotary,
      .convert = convert,
      .draw_mask = draw_mask,
      .thin_xat = thin_xat,
      .thin_ua = thin_ua,
      .thin_utx = thin_utx,
      .causal_softmax = causal_softmax,
      .causal_softmax_backward = causal_softmax_backward,
      .cross_entropy = cross_entropy,
      .add_scaled = add_scaled,
      .copy_with_squares = copy_with_squares,
      .gemm_rows = kGemmRows,
      .gemm_cols = kGemmCols,
      .bf16_dot = kBf16Dot,
      .pack_a = pack_a,
      .pack_b = pack_b,
      .tile_float = tile_float,
      .tile_bf16 = tile_bf16,
      .adamw = adamw,
  };
  return kTable;
}

}  // namespace vax::ops::VAX_KERNEL_TARGET
