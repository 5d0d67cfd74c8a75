// Additions to the residual stream and the copy of its gradient.

namespace vax::ops::VAX_KERNEL_TARGET {

void add_scaled(const AddScaledArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* x = row_of<float>(args.x, row);
    float* h = row_of<float>(args.h, row);
    with_row(args.added, row, [&](const auto* added) {
      for_vectors(0, args.cols, [&](int64_t i, auto part) {
        store(h + i, multiply_add(load(added + i, part), args.scale, load(x + i, part)), part);
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

}  // namespace vax::ops::VAX_KERNEL_TARGET
