// Dropout by itself; the bits come from mask.h.
#include "ops/device/launch.h"
#include "ops/device/mask.h"
#include "ops/dropout.h"

namespace vax::ops::device {
namespace {

template <typename T, bool kWide>
__global__ void dropout(DropoutArgs args, unsigned blocks_per_row) {
  const auto [row, col] = row_place(blocks_per_row, kMaskGroup);
  if (col >= args.cols) return;
  float x[kMaskGroup];
  load_group<kWide>(row_of<T>(args.x, row), col, args.cols, x);
  apply_mask(mask_key(args.mask), mask_row(args.mask, row), col, x);
#pragma unroll
  for (int j = 0; j < kMaskGroup; ++j) x[j] *= args.scale;
  store_group<kWide>(row_of<T>(args.y, row), col, args.cols, x);
}

void launch_dropout(const DropoutArgs& args, int64_t, int64_t rows) {
  const bool is_wide =
      vectors_fit(args.x, args.cols, kMaskGroup) && vectors_fit(args.y, args.cols, kMaskGroup);
  const RowGrid at = row_grid(rows, args.cols, kMaskGroup);
  with_elem(args.x.elem, [&](auto element) {
    using T = decltype(element);
    launch(is_wide ? dropout<T, true> : dropout<T, false>, at.grid, at.block, args,
           at.blocks_per_row);
  });
}

}  // namespace

const DropoutKernels dropout_kernels = {.apply = launch_dropout};

}  // namespace vax::ops::device
