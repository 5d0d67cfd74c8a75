// Head and cross entropy on a device: per chunk of rows one product for the logits, one kernel that
// turns them into losses and gradient, two products for dx and dw.
#include <ATen/ATen.h>

#include <algorithm>

#include "base/narrow.h"
#include "ops/device/kernels.h"
#include "ops/device/ops.h"
#include "ops/device/runtime.h"
#include "ops/linear.h"
#include "ops/tensor_rows.h"

namespace vax::ops::device {
namespace {

// Logits whose rows begin at multiples of 16 bytes, also where a token was added to a vocabulary:
// products and kernels are slower without.
at::Tensor logits_buffer(const at::Tensor& x_ND, int64_t rows, int64_t vocabulary) {
  const int64_t per_access = 16 / x_ND.element_size();
  return at::empty({rows, round_up(vocabulary, per_access)}, x_ND.options())
      .narrow(1, 0, vocabulary);
}

}  // namespace

void head_loss(const at::Tensor& x_ND, const at::Tensor& w_VD, const int64_t* targets,
               const at::Tensor& loss_scale, at::Tensor& loss_sum, at::Tensor& dx_ND,
               at::Tensor& dw_VD, bool accumulate, int64_t chunk_rows) {
  const int64_t num_rows = x_ND.size(0);
  const at::Tensor losses = at::empty({num_rows}, loss_sum.options());
  const at::Tensor buffer = logits_buffer(x_ND, chunk_rows, w_VD.size(0));
  for (int64_t begin = 0; begin < num_rows; begin += chunk_rows) {
    const int64_t rows = std::min(chunk_rows, num_rows - begin);
    const at::Tensor x = x_ND.narrow(0, begin, rows);
    at::Tensor z = buffer.narrow(0, 0, rows);
    matmul(x, w_VD.t(), z, false);
    launch_cross_entropy({.cols = z.size(1),
                          .z = mutable_rows(z),
                          .targets = targets + begin,
                          .scale = loss_scale.const_data_ptr<double>(),
                          .with_gradient = dx_ND.defined() || dw_VD.defined(),
                          .losses = losses.mutable_data_ptr<double>() + begin},
                         rows, compute_stream());
    if (dx_ND.defined()) {
      at::Tensor dx = dx_ND.narrow(0, begin, rows);
      linear_backward_input(z, w_VD, dx, false);
    }
    if (dw_VD.defined()) linear_backward_weight(z, x, dw_VD, accumulate || begin > 0);
  }
  launch_add_totals(losses.const_data_ptr<double>(), num_rows, 1,
                    loss_sum.mutable_data_ptr<double>(), compute_stream());
}

}  // namespace vax::ops::device
