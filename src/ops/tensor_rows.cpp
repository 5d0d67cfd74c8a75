// Checks at the entry of every operator, row views and the fixed partition of sums over rows.
#include "ops/tensor_rows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstddef>

#include "base/error.h"
#include "base/narrow.h"

namespace vax::ops {
namespace {

Elem elem_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat ? Elem::kFloat : Elem::kBfloat16;
}

int64_t byte_offset(ConstRows rows, int64_t row, int64_t col) {
  return (row * rows.stride + col) * (rows.elem == Elem::kFloat ? 4 : 2);
}

}  // namespace

void check_tensor(const at::Tensor& tensor, const char* name, at::IntArrayRef sizes, Types types) {
  VAX_CHECK(tensor.defined(), name, " is undefined");
  VAX_CHECK(tensor.device().is_cpu() || device::takes(tensor), name, " is on ", tensor.device(),
            "; this build's operators take CPU tensors");
  const bool type_fits = tensor.scalar_type() == at::kFloat ||
                         (types == Types::kFloatOrBf16 && tensor.scalar_type() == at::kBFloat16);
  VAX_CHECK(type_fits, name, " is ", tensor.scalar_type(), ", expected float32",
            types == Types::kFloatOrBf16 ? " or bfloat16" : "");
  VAX_CHECK(tensor.sizes() == sizes, name, " has shape ", tensor.sizes(), ", expected ", sizes);
  VAX_CHECK(tensor.dim() == 0 || tensor.size(-1) <= 1 || tensor.stride(-1) == 1, name,
            " has strides ", tensor.strides(), ", expected a contiguous last dimension");
}

void check_sums(const at::Tensor& sums, const char* name, int64_t count) {
  VAX_CHECK(sums.defined() && sums.scalar_type() == at::kDouble && sums.is_contiguous() &&
                sums.numel() == count,
            name, " must be a contiguous fp64 tensor of ", count, " elements");
}

void check_same_type(const at::Tensor& a, const char* a_name, const at::Tensor& b,
                     const char* b_name) {
  VAX_CHECK(a.scalar_type() == b.scalar_type(), a_name, " is ", a.scalar_type(), " but ", b_name,
            " is ", b.scalar_type(), "; expected one type");
}

ConstRows const_rows(const at::Tensor& tensor) {
  return {tensor.const_data_ptr(), elem_of(tensor), tensor.dim() > 1 ? tensor.stride(0) : 0};
}

Rows mutable_rows(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr(), elem_of(tensor), tensor.dim() > 1 ? tensor.stride(0) : 0};
}

ConstRows from(ConstRows rows, int64_t row, int64_t col) {
  const auto* bytes = static_cast<const std::byte*>(rows.data) + byte_offset(rows, row, col);
  return {bytes, rows.elem, rows.stride};
}

Rows from(Rows rows, int64_t row, int64_t col) {
  auto* bytes = static_cast<std::byte*>(rows.data) + byte_offset(rows, row, col);
  return {bytes, rows.elem, rows.stride};
}

RowBlocks row_blocks(int64_t rows, int64_t partial_size) {
  constexpr int64_t kFewestRows = 64;  // a block repays its partial sums
  constexpr int64_t kMostBlocks = 32;
  constexpr int64_t kMostPartials = int64_t{16} << 20;  // floats
  constexpr int64_t kMultiple = 16;  // whole sub-blocks in the operators that have them
  const int64_t fitting = kMostPartials / std::max<int64_t>(1, partial_size);
  const int64_t num_blocks = std::clamp<int64_t>(fitting, 1, kMostBlocks);
  const int64_t even = round_up(ceil_div(rows, num_blocks), kMultiple);
  const int64_t rows_per_block = std::max(kFewestRows, even);
  return {rows, rows_per_block, ceil_div(rows, rows_per_block)};
}

void add_partials(const PartialSums& partials, int64_t elements, float* sum, bool accumulate) {
  parallel_for(0, elements, 16384, [&](int64_t begin, int64_t end) {
    if (!accumulate) std::fill(sum + begin, sum + end, 0.0f);
    for (int64_t block = 0; block < partials.count; ++block) {
      const float* partial = partials.data + block * partials.stride;
      for (int64_t i = begin; i < end; ++i) sum[i] += partial[i];
    }
  });
}

}  // namespace vax::ops
