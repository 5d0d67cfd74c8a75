// Launches of lora.cu. Factors are rounded where ops/lora.cpp rounds them: the thin sides u and du
// carry 1 / (1 - p), so that masks are only bits.
#include <ATen/ATen.h>

#include <cmath>

#include "base/philox.h"
#include "ops/device/ops.h"
#include "ops/device/product_kernels.h"
#include "ops/device/runtime.h"
#include "ops/tensor_rows.h"

namespace vax::ops::device {
namespace {

constexpr MaskSource kNoMask{};

MaskSource mask_source(const DropoutKey& key) {
  if (key.p == 0) return kNoMask;
  const PhiloxKey philox = philox_key(key.seed, key.stream);
  return {.key = {philox[0], philox[1]},
          .device_key = key.device_key,
          .site = key.site,
          .threshold = static_cast<uint32_t>(std::lround(key.p * 65536)),
          .rows = key.rows.data(),
          .positions = key.positions.data()};
}

float mask_scale(const DropoutKey& key) { return static_cast<float>(1 / (1 - key.p)); }

// [R, C], C contiguous.
ThinArgs thin_args(const at::Tensor& u_TR, const at::Tensor& a_RC) {
  return {.rows = u_TR.size(0),
          .cols = a_RC.size(1),
          .rank = a_RC.size(0),
          .u = u_TR.mutable_data_ptr<float>(),
          .u_stride = a_RC.size(0),
          .a = a_RC.const_data_ptr<float>(),
          .a_stride = a_RC.stride(0)};
}

at::Tensor scratch_floats(int64_t count, const at::Tensor& like) {
  return at::empty({count}, like.options().dtype(at::kFloat));
}

// u = factor * mask(x) a^T
void thin_xat(const at::Tensor& x_TC, const at::Tensor& a_RC, const MaskSource& mask, float factor,
              const at::Tensor& u_TR) {
  const ThinArgs thin = thin_args(u_TR, a_RC);
  const at::Tensor scratch = scratch_floats(thin_xat_scratch(thin), u_TR);
  launch_thin_xat(
      {.thin = thin, .mask = mask, .factor = factor, .scratch = scratch.mutable_data_ptr<float>()},
      const_rows(x_TC), compute_stream());
}

// y += mask(factor * u a)
void thin_ua(const at::Tensor& u_TR, const at::Tensor& a_RC, const MaskSource& mask, float factor,
             const at::Tensor& y_TC) {
  launch_thin_ua(
      {.thin = thin_args(u_TR, a_RC), .mask = mask, .factor = factor, .scratch = nullptr},
      mutable_rows(y_TC), compute_stream());
}

struct MaskedInput {
  const at::Tensor& x_TC;
  const MaskSource& mask;
};
// grad (+)= factor * u^T mask(x)
void thin_utx(const at::Tensor& u_TR, const MaskedInput& input, float factor, const GradSum& grad) {
  const ThinArgs thin{.rows = u_TR.size(0),
                      .cols = input.x_TC.size(1),
                      .rank = u_TR.size(1),
                      .u = u_TR.mutable_data_ptr<float>(),
                      .u_stride = u_TR.size(1),
                      .a = nullptr,
                      .a_stride = 0};
  const at::Tensor scratch = scratch_floats(thin_utx_scratch(thin), u_TR);
  launch_thin_utx({.thin = thin,
                   .mask = input.mask,
                   .factor = factor,
                   .scratch = scratch.mutable_data_ptr<float>()},
                  const_rows(input.x_TC), grad, compute_stream());
}

// B^T [R, O], so that the long side is contiguous.
at::Tensor transposed(const at::Tensor& b_OR) { return b_OR.t().contiguous(); }

}  // namespace

void dropout(const at::Tensor& x_TD, const DropoutKey& key, at::Tensor& y_TD) {
  launch_dropout({.cols = x_TD.size(1),
                  .x = const_rows(x_TD),
                  .y = mutable_rows(y_TD),
                  .scale = mask_scale(key),
                  .mask = mask_source(key)},
                 x_TD.size(0), compute_stream());
}

void lora_forward(const at::Tensor& x_TI, const at::Tensor& a_RI, const at::Tensor& b_OR,
                  double scale, const DropoutKey& dropout, at::Tensor& u_TR, at::Tensor& y_TO) {
  thin_xat(x_TI, a_RI, mask_source(dropout), mask_scale(dropout), u_TR);
  if (y_TO.defined()) thin_ua(u_TR, transposed(b_OR), kNoMask, static_cast<float>(scale), y_TO);
}

void lora_backward(const at::Tensor& dy_TO, const at::Tensor& x_TI, const at::Tensor& u_TR,
                   const at::Tensor& a_RI, const at::Tensor& b_OR, double scale,
                   const DropoutKey& dropout, at::Tensor& dx_TI, at::Tensor& da_RI,
                   at::Tensor& db_OR, bool accumulate) {
  const auto factor = static_cast<float>(scale);
  const MaskSource mask = mask_source(dropout);
  const at::Tensor du_TR =
      scratch_floats(dy_TO.size(0) * a_RI.size(0), a_RI).view({dy_TO.size(0), a_RI.size(0)});
  thin_xat(dy_TO, transposed(b_OR), kNoMask, factor * mask_scale(dropout), du_TR);
  if (dx_TI.defined()) thin_ua(du_TR, a_RI, mask, 1, dx_TI);
  if (!da_RI.defined()) return;
  thin_utx(du_TR, {x_TI, mask}, 1,
           {.sum = da_RI.mutable_data_ptr<float>(), .accumulate = accumulate, .turned = false});
  thin_utx(u_TR, {dy_TO, kNoMask}, factor,
           {.sum = db_OR.mutable_data_ptr<float>(), .accumulate = accumulate, .turned = true});
}

}  // namespace vax::ops::device
