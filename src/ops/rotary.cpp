// Both directions are one kernel with the angle's sign. Positions index a table, so on the host
// they are checked before any row is touched: a bad one leaves x as it was.
#include "ops/rotary.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

void check_positions(const at::Tensor& positions_T, int64_t num_tokens, int64_t num_positions) {
  VAX_CHECK(positions_T.defined() && positions_T.scalar_type() == at::kInt &&
                positions_T.is_contiguous() && positions_T.dim() == 1 &&
                positions_T.size(0) == num_tokens,
            "positions must be a contiguous int32 tensor of ", num_tokens);
  if (device::takes(positions_T)) return;
  const int32_t* positions = positions_T.const_data_ptr<int32_t>();
  for (int64_t t = 0; t < num_tokens; ++t) {
    VAX_CHECK(positions[t] >= 0 && positions[t] < num_positions, "position ", positions[t],
              " of token ", t, " is outside the table of ", num_positions, " angles");
  }
}

void rotate(const at::Tensor& x_THK, const at::Tensor& cos_PK, const at::Tensor& sin_PK,
            const at::Tensor& positions_T, float sign) {
  VAX_CHECK(x_THK.dim() == 3 && x_THK.size(2) % 2 == 0, "x has shape ", x_THK.sizes(),
            ", expected [T, H, K] with K even");
  VAX_CHECK(cos_PK.dim() == 2, "cos has shape ", cos_PK.sizes(), ", expected [P, K/2]");
  const int64_t num_tokens = x_THK.size(0), num_heads = x_THK.size(1), half = x_THK.size(2) / 2;
  check_tensor(x_THK, "x", x_THK.sizes(), Types::kFloatOrBf16);
  check_tensor(cos_PK, "cos", {cos_PK.size(0), half}, Types::kFloat);
  check_tensor(sin_PK, "sin", cos_PK.sizes(), Types::kFloat);
  VAX_CHECK(cos_PK.is_contiguous() && sin_PK.is_contiguous(), "cos and sin must be contiguous");
  check_positions(positions_T, num_tokens, cos_PK.size(0));
  const RotaryArgs args{.num_heads = num_heads,
                        .half_dim = half,
                        .head_stride = x_THK.stride(1),
                        .x = mutable_rows(x_THK),
                        .cos = cos_PK.const_data_ptr<float>(),
                        .sin = sin_PK.const_data_ptr<float>(),
                        .angle_stride = half,
                        .positions = positions_T.const_data_ptr<int32_t>(),
                        .sign = sign};
  run_rows(x_THK, rotary_kernels, &RotaryKernels::rotate, args, num_heads * half * 2);
}

}  // namespace

void rotary_forward(at::Tensor& x_THK, const at::Tensor& cos_PK, const at::Tensor& sin_PK,
                    const at::Tensor& positions_T) {
  rotate(x_THK, cos_PK, sin_PK, positions_T, 1.0f);
}

void rotary_backward(at::Tensor& dx_THK, const at::Tensor& cos_PK, const at::Tensor& sin_PK,
                     const at::Tensor& positions_T) {
  rotate(dx_THK, cos_PK, sin_PK, positions_T, -1.0f);
}

}  // namespace vax::ops
