// Private to this folder.
// The backward of a norm: row by row, and with it gradients that are sums over all rows. Rows are
// cut into blocks that leave partial sums, joined in order: on the CPU the blocks of row_blocks(),
// on a device as many as the kernel says.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <span>

#include "ops/device/runtime.h"
#include "ops/kernels/kernel.h"
#include "ops/parallel.h"
#include "ops/scratch.h"
#include "ops/sums.h"
#include "ops/tensor_rows.h"

namespace vax::ops {

// Runs the table's backward(args, begin, end, partial sums) over the rows of x. `sums`: [args.cols]
// each, added to, or written unless `accumulate`; side by side in a partial sum; all of them null:
// not wanted.
template <typename Table, typename Args>
void run_backward(const at::Tensor& x_TD, const KernelSet<Table>& kernels, const Args& args,
                  std::span<float* const> sums, bool accumulate) {
  const int64_t rows = x_TD.size(0), size = std::ssize(sums) * args.cols;
  const bool wanted = sums.front() != nullptr;
  if (device::takes(x_TD)) {
    const Table& table = kernels.device();
    if (!wanted) return table.backward(args, 0, rows, nullptr);
    const int64_t count = table.num_partials(rows);
    const at::Tensor partials = at::empty({count, size}, x_TD.options());
    float* const data = partials.mutable_data_ptr<float>();
    table.backward(args, 0, rows, data);
    for (size_t i = 0; i < sums.size(); ++i) {
      const float* first = data + static_cast<int64_t>(i) * args.cols;
      sums_kernels.device().add_partials({first, count, size}, args.cols, sums[i], accumulate);
    }
    return;
  }
  const Table& table = kernels.cpu();
  if (!wanted) {
    return parallel_for(0, rows, grain_rows(args.cols), [&](int64_t begin, int64_t end) {
      table.backward(args, begin, end, nullptr);
    });
  }
  const RowBlocks blocks = row_blocks(rows, size);
  FloatScratch partials = float_scratch(blocks.count * size);
  parallel_for(0, blocks.count, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      table.backward(args, blocks.begin(block), blocks.end(block), partials.data() + block * size);
    }
  });
  for (size_t i = 0; i < sums.size(); ++i) {
    const float* first = partials.data() + static_cast<int64_t>(i) * args.cols;
    add_partials({first, blocks.count, size}, args.cols, sums[i], accumulate);
  }
}

}  // namespace vax::ops
