// CPU path: one vector loop per row. Row sums are stored and joined in row order by one thread.
#include "ops/hidden_state.h"

#include <ATen/ATen.h>

#include <numeric>
#include <vector>

#include "base/error.h"
#include "ops/device/ops.h"
#include "ops/parallel.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

double total(const std::vector<float>& row_sums) {
  return std::accumulate(row_sums.begin(), row_sums.end(), 0.0);
}

double* sums_data(const at::Tensor& sums, const char* name, int64_t count) {
  check_sums(sums, name, count);
  return sums.mutable_data_ptr<double>();
}

}  // namespace

void residual_add(const at::Tensor& x_TD, const at::Tensor& e_TD, at::Tensor& h_TD) {
  VAX_CHECK(x_TD.dim() == 2, "x has shape ", x_TD.sizes(), ", expected [T, D]");
  check_tensor(x_TD, "x", x_TD.sizes(), Types::kFloat);
  check_tensor(e_TD, "e", x_TD.sizes(), Types::kFloatOrBf16);
  check_tensor(h_TD, "h", x_TD.sizes(), Types::kFloat);
  if (device::takes(h_TD)) return device::residual_add(x_TD, e_TD, h_TD);
  const AddScaledArgs args{.cols = x_TD.size(1),
                           .x = const_rows(x_TD),
                           .added = const_rows(e_TD),
                           .scale = 1,
                           .h = mutable_rows(h_TD)};
  parallel_for(0, x_TD.size(0), grain_rows(args.cols),
               [&](int64_t begin, int64_t end) { kernels().add_scaled(args, begin, end); });
}

void copy_with_squares(const at::Tensor& grad_TD, at::Tensor& kept_TD, at::Tensor& squares) {
  VAX_CHECK(grad_TD.dim() == 2, "grad has shape ", grad_TD.sizes(), ", expected [T, D]");
  check_tensor(grad_TD, "grad", grad_TD.sizes(), Types::kFloat);
  check_tensor(kept_TD, "kept", grad_TD.sizes(), Types::kFloatOrBf16);
  check_sums(squares, "squares", 1);
  if (device::takes(grad_TD)) return device::copy_with_squares(grad_TD, kept_TD, squares);
  const int64_t cols = grad_TD.size(1);
  const ConstRows grad = const_rows(grad_TD);
  const Rows kept = mutable_rows(kept_TD);
  std::vector<float> row_squares(static_cast<size_t>(grad_TD.size(0)));
  parallel_for(0, grad_TD.size(0), grain_rows(cols), [&](int64_t begin, int64_t end) {
    kernels().copy_with_squares(cols, from(grad, begin), from(kept, begin), end - begin,
                                row_squares.data() + begin);
  });
  *squares.mutable_data_ptr<double>() += total(row_squares);
}

// Returns early for a scale of 0: adding 0 * kept would turn -0 into 0, and a NaN would spread.
void add_scaled(const at::Tensor& kept_TD, const at::Tensor& scale, at::Tensor& h_TD) {
  VAX_CHECK(h_TD.dim() == 2, "h has shape ", h_TD.sizes(), ", expected [T, D]");
  check_tensor(h_TD, "h", h_TD.sizes(), Types::kFloat);
  const bool one_vector = kept_TD.defined() && kept_TD.dim() == 1;
  check_tensor(kept_TD, "kept", one_vector ? h_TD.sizes().slice(1) : h_TD.sizes(),
               Types::kFloatOrBf16);
  check_sums(scale, "scale", 1);
  if (device::takes(h_TD)) return device::add_scaled(kept_TD, scale, h_TD);
  const auto factor = static_cast<float>(*scale.const_data_ptr<double>());
  if (factor == 0) return;
  const AddScaledArgs args{.cols = h_TD.size(1),
                           .x = const_rows(h_TD),
                           .added = const_rows(kept_TD),
                           .scale = factor,
                           .h = mutable_rows(h_TD)};
  parallel_for(0, h_TD.size(0), grain_rows(args.cols),
               [&](int64_t begin, int64_t end) { kernels().add_scaled(args, begin, end); });
}

void cosine_sums(const at::Tensor& a_TD, const at::Tensor& b_TD, at::Tensor& sums) {
  check_tensor(a_TD, "a", a_TD.sizes(), Types::kFloatOrBf16);
  check_tensor(b_TD, "b", a_TD.sizes(), Types::kFloatOrBf16);
  VAX_CHECK(a_TD.dim() == 1 || a_TD.dim() == 2, "a has shape ", a_TD.sizes(),
            ", expected [T, D] or [D]");
  double* const to = sums_data(sums, "sums", 3);
  if (device::takes(a_TD)) return device::cosine_sums(a_TD, b_TD, sums);
  const int64_t rows = a_TD.dim() == 1 ? 1 : a_TD.size(0), cols = a_TD.size(-1);
  const ConstRows a = const_rows(a_TD), b = const_rows(b_TD);
  std::vector<float> ab(static_cast<size_t>(rows)), aa(ab.size()), bb(ab.size());
  parallel_for(0, rows, grain_rows(cols), [&](int64_t begin, int64_t end) {
    const ConstRows a_rows = from(a, begin), b_rows = from(b, begin);
    kernels().row_dots(a_rows, b_rows, end - begin, cols, ab.data() + begin);
    kernels().row_dots(a_rows, a_rows, end - begin, cols, aa.data() + begin);
    kernels().row_dots(b_rows, b_rows, end - begin, cols, bb.data() + begin);
  });
  to[0] += total(ab);
  to[1] += total(aa);
  to[2] += total(bb);
}

void add_squares(const at::Tensor& x, at::Tensor& squares) {
  check_tensor(x, "x", x.sizes(), Types::kFloat);
  VAX_CHECK(x.is_contiguous(), "x has strides ", x.strides(), ", expected a contiguous tensor");
  double* const to = sums_data(squares, "squares", 1);
  if (device::takes(x)) return device::add_squares(x, squares);
  // Runs of elements are rows, and what is left a last one. (LibTorch's norm adds all in fp32: 1e-4
  // off at 4 million elements.)
  constexpr int64_t kRun = 4096;
  const int64_t num_whole = x.numel() / kRun, rest = x.numel() % kRun;
  const ConstRows runs{x.const_data_ptr(), Elem::kFloat, kRun};
  std::vector<float> squares_of_runs(static_cast<size_t>(num_whole + 1), 0.0f);
  parallel_for(0, num_whole, grain_rows(kRun), [&](int64_t begin, int64_t end) {
    const ConstRows rows = from(runs, begin);
    kernels().row_dots(rows, rows, end - begin, kRun, squares_of_runs.data() + begin);
  });
  const ConstRows last = from(runs, num_whole);
  if (rest > 0) kernels().row_dots(last, last, 1, rest, &squares_of_runs.back());
  *to += total(squares_of_runs);
}

}  // namespace vax::ops
