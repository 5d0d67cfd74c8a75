// Private to this folder.
// What the operators share at their entry: checks of shape, type and device, the plain view of a
// tensor's rows that kernels take, and the way to a kernel where the tensor lies.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/device/runtime.h"
#include "ops/kernels/kernel.h"
#include "ops/parallel.h"
#include "ops/sums.h"

namespace vax::ops {

enum class Types { kFloat, kFloatOrBf16 };

// THROWS std::logic_error, naming the tensor, unless it is defined, on the CPU or a device that the
// program has operators for, of one of the types, of exactly these sizes and with a contiguous last
// dimension.
void check_tensor(const at::Tensor& tensor, const char* name, at::IntArrayRef sizes, Types types);

// THROWS std::logic_error unless it is fp64, contiguous, of `count` elements.
void check_sums(const at::Tensor& sums, const char* name, int64_t count);

// THROWS std::logic_error unless both have one type.
void check_same_type(const at::Tensor& a, const char* a_name, const at::Tensor& b,
                     const char* b_name);

// Rows along the first dimension; a vector is one row. REQUIRES check_tensor.
ConstRows const_rows(const at::Tensor& tensor);
Rows mutable_rows(const at::Tensor& tensor);

// The same matrix from a later row and column on.
ConstRows from(ConstRows rows, int64_t row, int64_t col = 0);
Rows from(Rows rows, int64_t row, int64_t col = 0);

// Rows that one thread should have at least: about 16 K elements.
constexpr int64_t grain_rows(int64_t cols) { return 1 + 16384 / (cols + 1); }

// Runs one of the operator's kernels over all rows of `where`, there: on the threads of the CPU, or
// as one launch on the device. row_size: elements of a row's work, for the split over threads.
template <typename Table, typename Args>
void run_rows(const at::Tensor& where, const KernelSet<Table>& kernels,
              RowKernel<Args> Table::*kernel, const Args& args, int64_t row_size) {
  if (device::takes(where)) return (kernels.device().*kernel)(args, 0, where.size(0));
  const RowKernel<Args> run = kernels.cpu().*kernel;
  parallel_for(0, where.size(0), grain_rows(row_size),
               [&](int64_t begin, int64_t end) { run(args, begin, end); });
}

// A partition of rows into blocks that depends on shapes only, never on the threads: sums
// over rows are made block by block and joined in order, so that they have the same bits
// everywhere.
struct RowBlocks {
  int64_t rows, rows_per_block, count;
  int64_t begin(int64_t block) const { return block * rows_per_block; }
  int64_t end(int64_t block) const { return begin(block + 1) < rows ? begin(block + 1) : rows; }
};
// partial_size: floats of one block's partial sums; all of them together stay near 64 MiB.
RowBlocks row_blocks(int64_t rows, int64_t partial_size);

// On a CPU: sum (+)= the first `elements` floats of every partial sum, in order.
void add_partials(const PartialSums& partials, int64_t elements, float* sum, bool accumulate);

}  // namespace vax::ops
