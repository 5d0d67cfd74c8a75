// Conversion between fp32 and bf16 with scale and mask; sums over columns.
#include "ops/kernels/vec.inl"
#include "ops/rows.h"

namespace vax::ops::VAX_KERNEL_TARGET {

void convert(const ConvertArgs& args, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    const float scale = args.row_scale == nullptr ? args.scale : args.scale * args.row_scale[row];
    const uint8_t* mask = args.mask == nullptr ? nullptr : args.mask + row * args.mask_stride;
    with_row(args.src, row, [&](const auto* src) {
      with_row(args.dst, row, [&](auto* dst) {
        for_vectors(0, args.cols, [&](int64_t i, auto part) {
          const VecF v = load(src + i, part) * scale;
          store(dst + i, mask == nullptr ? v : keep(v, mask, i), part);
        });
      });
    });
  }
}

void row_dots(ConstRows a, ConstRows b, int64_t rows, int64_t cols, float* out) {
  for (int64_t row = 0; row < rows; ++row) {
    with_row(a, row, [&](const auto* a_row) {
      with_row(b, row, [&](const auto* b_row) {
        out[row] = sum_over(cols, [&](int64_t i, auto part, VecF sum) {
          return multiply_add(load(a_row + i, part), load(b_row + i, part), sum);
        });
      });
    });
  }
}

const RowsKernels rows_kernels = {.convert = convert, .row_dots = row_dots};

}  // namespace vax::ops::VAX_KERNEL_TARGET
