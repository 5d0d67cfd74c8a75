// Sums: one fp32 number per row, then joined in fp64, on the CPU in row order by one thread. On a
// device they go through scratch memory of LibTorch's allocator, whose reuse follows the stream's
// order.
#include "ops/hidden_state.h"

#include <ATen/ATen.h>

#include <numeric>
#include <vector>

#include "base/error.h"
#include "ops/device/runtime.h"
#include "ops/parallel.h"
#include "ops/rows.h"
#include "ops/sums.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

double total(const std::vector<float>& row_sums) {
  return std::accumulate(row_sums.begin(), row_sums.end(), 0.0);
}

// h = x + scale * added; scale null: 1.
void add_rows(const at::Tensor& x_TD, const at::Tensor& added_TD, const double* scale,
              const at::Tensor& h_TD) {
  const AddScaledArgs args{.cols = h_TD.size(1),
                           .x = const_rows(x_TD),
                           .added = const_rows(added_TD),
                           .scale = scale,
                           .h = mutable_rows(h_TD)};
  run_rows(h_TD, hidden_state_kernels, &HiddenStateKernels::add_scaled, args, args.cols);
}

// On a device: sums (+)= the totals of the rows' sums [number of sums, rows].
void add_totals(const at::Tensor& row_sums, const at::Tensor& sums) {
  sums_kernels.device().add_totals(row_sums.const_data_ptr<float>(), row_sums.size(1),
                                   static_cast<int>(row_sums.size(0)),
                                   sums.mutable_data_ptr<double>());
}

}  // namespace

void residual_add(const at::Tensor& x_TD, const at::Tensor& e_TD, at::Tensor& h_TD) {
  VAX_CHECK(x_TD.dim() == 2, "x has shape ", x_TD.sizes(), ", expected [T, D]");
  check_tensor(x_TD, "x", x_TD.sizes(), Types::kFloat);
  check_tensor(e_TD, "e", x_TD.sizes(), Types::kFloatOrBf16);
  check_tensor(h_TD, "h", x_TD.sizes(), Types::kFloat);
  add_rows(x_TD, e_TD, nullptr, h_TD);
}

void copy_with_squares(const at::Tensor& grad_TD, at::Tensor& kept_TD, at::Tensor& squares) {
  VAX_CHECK(grad_TD.dim() == 2, "grad has shape ", grad_TD.sizes(), ", expected [T, D]");
  check_tensor(grad_TD, "grad", grad_TD.sizes(), Types::kFloat);
  check_tensor(kept_TD, "kept", grad_TD.sizes(), Types::kFloatOrBf16);
  check_sums(squares, "squares", 1);
  const int64_t num_rows = grad_TD.size(0), cols = grad_TD.size(1);
  const ConstRows grad = const_rows(grad_TD);
  const Rows kept = mutable_rows(kept_TD);
  if (device::takes(grad_TD)) {
    const at::Tensor row_sums = at::empty({1, num_rows}, grad_TD.options());
    hidden_state_kernels.device().copy_with_squares(cols, grad, kept, num_rows,
                                                    row_sums.mutable_data_ptr<float>());
    return add_totals(row_sums, squares);
  }
  std::vector<float> row_squares(static_cast<size_t>(num_rows));
  parallel_for(0, num_rows, grain_rows(cols), [&](int64_t begin, int64_t end) {
    hidden_state_kernels.cpu().copy_with_squares(cols, from(grad, begin), from(kept, begin),
                                                 end - begin, row_squares.data() + begin);
  });
  *squares.mutable_data_ptr<double>() += total(row_squares);
}

void add_scaled(const at::Tensor& kept_TD, const at::Tensor& scale, at::Tensor& h_TD) {
  VAX_CHECK(h_TD.dim() == 2, "h has shape ", h_TD.sizes(), ", expected [T, D]");
  check_tensor(h_TD, "h", h_TD.sizes(), Types::kFloat);
  const bool one_vector = kept_TD.defined() && kept_TD.dim() == 1;
  check_tensor(kept_TD, "kept", one_vector ? h_TD.sizes().slice(1) : h_TD.sizes(),
               Types::kFloatOrBf16);
  check_sums(scale, "scale", 1);
  add_rows(h_TD, kept_TD, scale.const_data_ptr<double>(), h_TD);
}

void cosine_sums(const at::Tensor& a_TD, const at::Tensor& b_TD, at::Tensor& sums) {
  check_tensor(a_TD, "a", a_TD.sizes(), Types::kFloatOrBf16);
  check_tensor(b_TD, "b", a_TD.sizes(), Types::kFloatOrBf16);
  VAX_CHECK(a_TD.dim() == 1 || a_TD.dim() == 2, "a has shape ", a_TD.sizes(),
            ", expected [T, D] or [D]");
  check_sums(sums, "sums", 3);
  const int64_t rows = a_TD.dim() == 1 ? 1 : a_TD.size(0), cols = a_TD.size(-1);
  const ConstRows a = const_rows(a_TD), b = const_rows(b_TD);
  if (device::takes(a_TD)) {
    const at::Tensor row_sums = at::empty({3, rows}, a_TD.options().dtype(at::kFloat));
    hidden_state_kernels.device().cosine_sums(a, b, rows, cols, row_sums.mutable_data_ptr<float>());
    return add_totals(row_sums, sums);
  }
  std::vector<float> ab(static_cast<size_t>(rows)), aa(ab.size()), bb(ab.size());
  parallel_for(0, rows, grain_rows(cols), [&](int64_t begin, int64_t end) {
    const ConstRows a_rows = from(a, begin), b_rows = from(b, begin);
    const auto row_dots = rows_kernels.cpu().row_dots;
    row_dots(a_rows, b_rows, end - begin, cols, ab.data() + begin);
    row_dots(a_rows, a_rows, end - begin, cols, aa.data() + begin);
    row_dots(b_rows, b_rows, end - begin, cols, bb.data() + begin);
  });
  double* const to = sums.mutable_data_ptr<double>();
  to[0] += total(ab);
  to[1] += total(aa);
  to[2] += total(bb);
}

void add_squares(const at::Tensor& x, at::Tensor& squares) {
  check_tensor(x, "x", x.sizes(), Types::kFloat);
  VAX_CHECK(x.is_contiguous(), "x has strides ", x.strides(), ", expected a contiguous tensor");
  check_sums(squares, "squares", 1);
  double* const to = squares.mutable_data_ptr<double>();
  if (device::takes(x)) {
    const HiddenStateKernels& kernels = hidden_state_kernels.device();
    const int64_t num_partials = kernels.num_square_partials(x.numel());
    const at::Tensor partials = at::empty({num_partials}, squares.options());
    kernels.squares(x.const_data_ptr<float>(), x.numel(), partials.mutable_data_ptr<double>());
    return sums_kernels.device().add_double_totals(partials.const_data_ptr<double>(), num_partials,
                                                   1, to);
  }
  // Runs of elements are rows, and what is left a last one. (LibTorch's norm adds all in fp32: 1e-4
  // off at 4 million elements.)
  constexpr int64_t kRun = 4096;
  const int64_t num_whole = x.numel() / kRun, rest = x.numel() % kRun;
  const ConstRows runs{x.const_data_ptr(), Elem::kFloat, kRun};
  std::vector<float> squares_of_runs(static_cast<size_t>(num_whole + 1), 0.0f);
  parallel_for(0, num_whole, grain_rows(kRun), [&](int64_t begin, int64_t end) {
    const ConstRows rows = from(runs, begin);
    rows_kernels.cpu().row_dots(rows, rows, end - begin, kRun, squares_of_runs.data() + begin);
  });
  const ConstRows last = from(runs, num_whole);
  if (rest > 0) rows_kernels.cpu().row_dots(last, last, 1, rest, &squares_of_runs.back());
  *to += total(squares_of_runs);
}

}  // namespace vax::ops
