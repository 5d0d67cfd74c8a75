// Layer norm, one row at a time: the squares are those of the differences from the mean, in a
// second pass over the row, which the first has brought to the nearest cache.
#include "ops/kernels/vec.inl"
#include "ops/layer_norm.h"

namespace vax::ops::VAX_KERNEL_TARGET {

inline void layer_norm_row(const LayerNormArgs& args, int64_t row) {
  const float* x = row_of<float>(args.x, row);
  const float mean = args.mean[row], rstd = args.rstd[row];
  with_row(args.w, 0, [&](const auto* w) {
    const auto* b = row_of<RowElem<decltype(w)>>(args.b, 0);
    with_row(args.y, row, [&](auto* y) {
      for_vectors(0, args.cols, [&](int64_t i, auto part) {
        const VecF n = (load(x + i, part) - mean) * rstd;
        store(y + i, multiply_add(n, load(w + i, part), load(b + i, part)), part);
      });
    });
  });
}

void layer_norm_forward(const LayerNormArgs& args, int64_t begin, int64_t end) {
  const auto count = static_cast<float>(args.cols);
  for (int64_t row = begin; row < end; ++row) {
    const float* x = row_of<float>(args.x, row);
    const float mean = sum_over(args.cols, [&](int64_t i, auto part,
                                               VecF sum) { return sum + load(x + i, part); }) /
                       count;
    const float squares = sum_over(args.cols, [&](int64_t i, auto part, VecF sum) {
      const VecF d = existing_or(load(x + i, part) - mean, VecF{}, part);
      return multiply_add(d, d, sum);
    });
    args.mean[row] = mean;
    args.rstd[row] = 1.0f / __builtin_sqrtf(squares / count + args.eps);
    layer_norm_row(args, row);
  }
}

void layer_norm_apply(const LayerNormArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) layer_norm_row(args, row);
}

template <typename DY, typename W>
inline void layer_norm_backward_row(const LayerNormBackwardArgs& args, const DY* dy, const W* w,
                                    int64_t row, float* dw) {
  const float* x = row_of<float>(args.x, row);
  float* dx = row_of<float>(args.dx, row);
  float* db = dw == nullptr ? nullptr : dw + args.cols;
  const float mean = args.mean[row], rstd = args.rstd[row];
  const auto count = static_cast<float>(args.cols);
  const float mean_g = sum_over(args.cols,
                                [&](int64_t i, auto part, VecF sum) {
                                  return multiply_add(load(dy + i, part), load(w + i, part), sum);
                                }) /
                       count;
  const float mean_gn =
      sum_over(args.cols,
               [&](int64_t i, auto part, VecF sum) {
                 const VecF n = (load(x + i, part) - mean) * rstd;
                 return multiply_add(load(dy + i, part) * load(w + i, part), n, sum);
               }) /
      count;
  for_vectors(0, args.cols, [&](int64_t i, auto part) {
    const VecF n = (load(x + i, part) - mean) * rstd, dy_i = load(dy + i, part);
    const VecF difference = multiply_add(dy_i, load(w + i, part), splat(-mean_g));
    const VecF added = multiply_add(n, -mean_gn, difference);
    store(dx + i, multiply_add(added, rstd, load(dx + i, part)), part);
    if (dw == nullptr) return;
    store(dw + i, multiply_add(dy_i, n, load(dw + i, part)), part);
    store(db + i, load(db + i, part) + dy_i, part);
  });
}

void layer_norm_backward(const LayerNormBackwardArgs& args, int64_t begin, int64_t end,
                         float* dwb) {
  for (int64_t row = begin; row < end; ++row) {
    with_row(args.dy, row, [&](const auto* dy) {
      with_row(args.w, 0, [&](const auto* w) { layer_norm_backward_row(args, dy, w, row, dwb); });
    });
  }
}

const LayerNormKernels layer_norm_kernels = {
    .forward = layer_norm_forward, .apply = layer_norm_apply, .backward = layer_norm_backward};

}  // namespace vax::ops::VAX_KERNEL_TARGET
