// Additions to the residual stream and the copy of its gradient.
#include "ops/hidden_state.h"
#include "ops/kernels/vec.inl"

namespace vax::ops::VAX_KERNEL_TARGET {

// Leaves h alone for a scale of 0: adding 0 * kept would turn -0 into 0, and a NaN would spread.
void add_scaled(const AddScaledArgs& args, int64_t begin, int64_t end) {
  const float scale = args.scale == nullptr ? 1.0f : static_cast<float>(*args.scale);
  if (scale == 0) return;
  for (int64_t row = begin; row < end; ++row) {
    const float* x = row_of<float>(args.x, row);
    float* h = row_of<float>(args.h, row);
    with_row(args.added, row, [&](const auto* added) {
      for_vectors(0, args.cols, [&](int64_t i, auto part) {
        store(h + i, multiply_add(load(added + i, part), scale, load(x + i, part)), part);
      });
    });
  }
}

void copy_with_squares(int64_t cols, ConstRows grad, Rows kept, int64_t rows, float* squares) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = row_of<float>(grad, row);
    with_row(kept, row, [&](auto* to) {
      squares[row] = sum_over(cols, [&](int64_t i, auto part, VecF sum) {
        store(to + i, load(from + i, part), part);
        const VecF v = load(to + i, part);
        return multiply_add(v, v, sum);
      });
    });
  }
}

const HiddenStateKernels hidden_state_kernels = {.add_scaled = add_scaled,
                                                 .copy_with_squares = copy_with_squares};

}  // namespace vax::ops::VAX_KERNEL_TARGET
