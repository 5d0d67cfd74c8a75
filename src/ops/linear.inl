// Sums over rows, for the gradient of a bias.
#include "ops/kernels/vec.inl"
#include "ops/linear.h"

namespace vax::ops::VAX_KERNEL_TARGET {

void column_sums(ConstRows dy, int64_t rows, int64_t begin, int64_t end, float* db) {
  constexpr int64_t kRowsPerPartial = 64;  // bounds the rounding error of one running sum
  with_row(dy, 0, [&](const auto* first) {
    for_vectors(begin, end, [&](int64_t c, auto part) {
      VecF total = {};
      for (int64_t row = 0; row < rows; row += kRowsPerPartial) {
        const int64_t stop = row + kRowsPerPartial < rows ? row + kRowsPerPartial : rows;
        VecF partial = {};
        for (int64_t r = row; r < stop; ++r) partial += load(first + r * dy.stride + c, part);
        total += partial;
      }
      store(db + c, load(db + c, part) + total, part);
    });
  });
}

const LinearKernels linear_kernels = {.column_sums = column_sums};

}  // namespace vax::ops::VAX_KERNEL_TARGET
