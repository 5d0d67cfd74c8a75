// The residual stream on a device. Sums go through scratch memory of LibTorch's allocator, whose
// reuse follows the stream's order.
#include <ATen/ATen.h>

#include "ops/device/kernels.h"
#include "ops/device/ops.h"
#include "ops/device/runtime.h"
#include "ops/tensor_rows.h"

namespace vax::ops::device {
namespace {

AddScaledArgs add_scaled_args(const at::Tensor& x_TD, const at::Tensor& added_TD,
                              const at::Tensor& h_TD) {
  return {.cols = h_TD.size(1),
          .x = const_rows(x_TD),
          .added = const_rows(added_TD),
          .scale = 1,
          .h = mutable_rows(h_TD)};
}

}  // namespace

void residual_add(const at::Tensor& x_TD, const at::Tensor& e_TD, at::Tensor& h_TD) {
  launch_add_scaled(add_scaled_args(x_TD, e_TD, h_TD), h_TD.size(0), nullptr, compute_stream());
}

void add_scaled(const at::Tensor& kept_TD, const at::Tensor& scale, at::Tensor& h_TD) {
  launch_add_scaled(add_scaled_args(h_TD, kept_TD, h_TD), h_TD.size(0),
                    scale.const_data_ptr<double>(), compute_stream());
}

void copy_with_squares(const at::Tensor& grad_TD, at::Tensor& kept_TD, at::Tensor& squares) {
  const int64_t num_rows = grad_TD.size(0);
  const at::Tensor row_squares = at::empty({num_rows}, grad_TD.options());
  launch_copy_with_squares(grad_TD.size(1), const_rows(grad_TD), mutable_rows(kept_TD), num_rows,
                           row_squares.mutable_data_ptr<float>(), compute_stream());
  launch_add_totals(row_squares.const_data_ptr<float>(), num_rows, 1,
                    squares.mutable_data_ptr<double>(), compute_stream());
}

void cosine_sums(const at::Tensor& a_TD, const at::Tensor& b_TD, at::Tensor& sums) {
  const int64_t num_rows = a_TD.dim() == 1 ? 1 : a_TD.size(0);
  const at::Tensor row_sums = at::empty({3, num_rows}, a_TD.options().dtype(at::kFloat));
  launch_cosine_sums(const_rows(a_TD), const_rows(b_TD), num_rows, a_TD.size(-1),
                     row_sums.mutable_data_ptr<float>(), compute_stream());
  launch_add_totals(row_sums.const_data_ptr<float>(), num_rows, 3, sums.mutable_data_ptr<double>(),
                    compute_stream());
}

void add_squares(const at::Tensor& x, at::Tensor& squares) {
  const int64_t count = x.numel(), num_partials = square_partials(count);
  const at::Tensor partials = at::empty({num_partials}, squares.options());
  launch_squares(x.const_data_ptr<float>(), count, partials.mutable_data_ptr<double>(),
                 compute_stream());
  launch_add_totals(partials.const_data_ptr<double>(), num_partials, 1,
                    squares.mutable_data_ptr<double>(), compute_stream());
}

}  // namespace vax::ops::device
