// CPU path: one vector loop per row. Row sums are stored and joined in row order by one thread.
#include "ops/hidden_state.h"

#include <ATen/ATen.h>

#include <numeric>
#include <vector>

#include "base/error.h"
#include "ops/parallel.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

double total(const std::vector<float>& row_sums) {
  return std::accumulate(row_sums.begin(), row_sums.end(), 0.0);
}

}  // namespace

void residual_add(const at::Tensor& x_TD, const at::Tensor& e_TD, at::Tensor& h_TD) {
  VAX_CHECK(x_TD.dim() == 2, "x has shape ", x_TD.sizes(), ", expected [T, D]");
  check_tensor(x_TD, "x", x_TD.sizes(), Types::kFloat);
  check_tensor(e_TD, "e", x_TD.sizes(), Types::kFloatOrBf16);
  check_tensor(h_TD, "h", x_TD.sizes(), Types::kFloat);
  const AddScaledArgs args{.cols = x_TD.size(1),
                           .x = const_rows(x_TD),
                           .added = const_rows(e_TD),
                           .scale = 1,
                           .h = mutable_rows(h_TD)};
  parallel_for(0, x_TD.size(0), grain_rows(args.cols),
               [&](int64_t begin, int64_t end) { kernels().add_scaled(args, begin, end); });
}

double copy_with_squares(const at::Tensor& grad_TD, at::Tensor& kept_TD) {
  VAX_CHECK(grad_TD.dim() == 2, "grad has shape ", grad_TD.sizes(), ", expected [T, D]");
  check_tensor(grad_TD, "grad", grad_TD.sizes(), Types::kFloat);
  check_tensor(kept_TD, "kept", grad_TD.sizes(), Types::kFloatOrBf16);
  const int64_t cols = grad_TD.size(1);
  const ConstRows grad = const_rows(grad_TD);
  const Rows kept = mutable_rows(kept_TD);
  std::vector<float> squares(static_cast<size_t>(grad_TD.size(0)));
  parallel_for(0, grad_TD.size(0), grain_rows(cols), [&](int64_t begin, int64_t end) {
    kernels().copy_with_squares(cols, from(grad, begin), from(kept, begin), end - begin,
                                squares.data() + begin);
  });
  return total(squares);
}

// Returns early for a scale of 0: adding 0 * kept would turn -0 into 0, and a NaN would spread.
void add_scaled(const at::Tensor& kept_TD, double scale, at::Tensor& h_TD) {
  VAX_CHECK(h_TD.dim() == 2, "h has shape ", h_TD.sizes(), ", expected [T, D]");
  check_tensor(h_TD, "h", h_TD.sizes(), Types::kFloat);
  const bool one_vector = kept_TD.defined() && kept_TD.dim() == 1;
  check_tensor(kept_TD, "kept", one_vector ? h_TD.sizes().slice(1) : h_TD.sizes(),
               Types::kFloatOrBf16);
  const auto factor = static_cast<float>(scale);
  if (factor == 0) return;
  const AddScaledArgs args{.cols = h_TD.size(1),
                           .x = const_rows(h_TD),
                           .added = const_rows(kept_TD),
                           .scale = factor,
                           .h = mutable_rows(h_TD)};
  parallel_for(0, h_TD.size(0), grain_rows(args.cols),
               [&](int64_t begin, int64_t end) { kernels().add_scaled(args, begin, end); });
}

CosineSums cosine_sums(const at::Tensor& a_TD, const at::Tensor& b_TD) {
  check_tensor(a_TD, "a", a_TD.sizes(), Types::kFloatOrBf16);
  check_tensor(b_TD, "b", a_TD.sizes(), Types::kFloatOrBf16);
  VAX_CHECK(a_TD.dim() == 1 || a_TD.dim() == 2, "a has shape ", a_TD.sizes(),
            ", expected [T, D] or [D]");
  const int64_t rows = a_TD.dim() == 1 ? 1 : a_TD.size(0), cols = a_TD.size(-1);
  const ConstRows a = const_rows(a_TD), b = const_rows(b_TD);
  std::vector<float> ab(static_cast<size_t>(rows)), aa(ab.size()), bb(ab.size());
  parallel_for(0, rows, grain_rows(cols), [&](int64_t begin, int64_t end) {
    const ConstRows a_rows = from(a, begin), b_rows = from(b, begin);
    kernels().row_dots(a_rows, b_rows, end - begin, cols, ab.data() + begin);
    kernels().row_dots(a_rows, a_rows, end - begin, cols, aa.data() + begin);
    kernels().row_dots(b_rows, b_rows, end - begin, cols, bb.data() + begin);
  });
  return {.ab = total(ab), .aa = total(aa), .bb = total(bb)};
}

}  // namespace vax::ops
