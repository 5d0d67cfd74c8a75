// RMSNorm, one row at a time.
#include "ops/kernels/vec.inl"
#include "ops/rms_norm.h"

namespace vax::ops::VAX_KERNEL_TARGET {

inline void normalise_row(const RmsNormArgs& args, int64_t row, float rstd) {
  const float* x = row_of<float>(args.x, row);
  with_row(args.w, 0, [&](const auto* w) {
    with_row(args.y, row, [&](auto* y) {
      for_vectors(0, args.cols, [&](int64_t i, auto part) {
        store(y + i, load(x + i, part) * rstd * load(w + i, part), part);
      });
    });
  });
}

void rms_norm_forward(const RmsNormArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* x = row_of<float>(args.x, row);
    const float squares = sum_over(args.cols, [&](int64_t i, auto part, VecF sum) {
      const VecF v = load(x + i, part);
      return multiply_add(v, v, sum);
    });
    const float mean = squares / static_cast<float>(args.cols);
    args.rstd[row] = 1.0f / __builtin_sqrtf(mean + args.eps);
    normalise_row(args, row, args.rstd[row]);
  }
}

void rms_norm_apply(const RmsNormArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) normalise_row(args, row, args.rstd[row]);
}

template <typename DY, typename W>
inline void rms_norm_backward_row(const RmsNormBackwardArgs& args, const DY* dy, const W* w,
                                  int64_t row, float* dw) {
  const float* x = row_of<float>(args.x, row);
  float* dx = row_of<float>(args.dx, row);
  const float rstd = args.rstd[row];
  const float dot = sum_over(args.cols, [&](int64_t i, auto part, VecF sum) {
    return multiply_add(load(dy + i, part) * load(w + i, part), load(x + i, part), sum);
  });
  const float x_factor = rstd * rstd * rstd * dot / static_cast<float>(args.cols);
  for_vectors(0, args.cols, [&](int64_t i, auto part) {
    const VecF x_i = load(x + i, part);
    const VecF scaled = load(dy + i, part) * rstd;
    const VecF added = multiply_add(scaled, load(w + i, part), x_i * -x_factor);
    store(dx + i, load(dx + i, part) + added, part);
    if (dw != nullptr) store(dw + i, multiply_add(scaled, x_i, load(dw + i, part)), part);
  });
}

void rms_norm_backward(const RmsNormBackwardArgs& args, int64_t begin, int64_t end, float* dw) {
  for (int64_t row = begin; row < end; ++row) {
    with_row(args.dy, row, [&](const auto* dy) {
      with_row(args.w, 0, [&](const auto* w) { rms_norm_backward_row(args, dy, w, row, dw); });
    });
  }
}

const RmsNormKernels rms_norm_kernels = {
    .forward = rms_norm_forward, .apply = rms_norm_apply, .backward = rms_norm_backward};

}  // namespace vax::ops::VAX_KERNEL_TARGET
