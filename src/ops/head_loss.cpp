// Per chunk of rows one product for the logits, one kernel that turns them into losses and dz, two
// products for dx and dw. Losses are summed in fp64: in row order on the CPU.
#include "ops/head_loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/narrow.h"
#include "ops/device/runtime.h"
#include "ops/matmul.h"
#include "ops/parallel.h"
#include "ops/sums.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

// Logits of one chunk stay below this: more with dW, since every chunk reads and writes all of dW,
// and on a device, whose products want more rows.
constexpr int64_t kChunkBytes = int64_t{16} << 20;
constexpr int64_t kLargeChunkBytes = int64_t{64} << 20;

void check_inputs(const at::Tensor& x_ND, const at::Tensor& w_VD, std::span<const int64_t> targets,
                  const at::Tensor& dx_ND, const at::Tensor& dw_VD) {
  VAX_CHECK(w_VD.dim() == 2, "w has shape ", w_VD.sizes(), ", expected [V, D]");
  check_tensor(w_VD, "w", w_VD.sizes(), Types::kFloatOrBf16);
  check_tensor(x_ND, "x", {std::ssize(targets), w_VD.size(1)}, Types::kFloatOrBf16);
  check_same_type(x_ND, "x", w_VD, "w");
  if (dx_ND.defined()) {
    check_tensor(dx_ND, "dx", x_ND.sizes(), Types::kFloatOrBf16);
    check_same_type(dx_ND, "dx", x_ND, "x");
  }
  if (dw_VD.defined()) check_tensor(dw_VD, "dw", w_VD.sizes(), Types::kFloat);
}

void check_targets(std::span<const int64_t> targets, int64_t vocabulary) {
  for (size_t i = 0; i < targets.size(); ++i) {
    VAX_CHECK(targets[i] >= 0 && targets[i] < vocabulary, "target ", targets[i], " of row ", i,
              " is outside the vocabulary of ", vocabulary);
  }
}

// On a device rows begin at multiples of 16 bytes, also where a token was added to a vocabulary:
// products and kernels are slower without.
at::Tensor logits_buffer(const at::Tensor& x_ND, int64_t rows, int64_t vocabulary) {
  const int64_t multiple = device::takes(x_ND) ? 16 / x_ND.element_size() : 1;
  return at::empty({rows, round_up(vocabulary, multiple)}, x_ND.options()).narrow(1, 0, vocabulary);
}

void add_losses(const at::Tensor& losses_N, at::Tensor& loss_sum) {
  const double* losses = losses_N.const_data_ptr<double>();
  double* const sum = loss_sum.mutable_data_ptr<double>();
  if (device::takes(losses_N)) {
    return sums_kernels.device().add_double_totals(losses, losses_N.size(0), 1, sum);
  }
  *sum += std::accumulate(losses, losses + losses_N.size(0), 0.0);
}

}  // namespace

int64_t head_loss_chunk_rows(int64_t vocab_size, int64_t element_bytes, bool large) {
  const int64_t row_bytes = std::max<int64_t>(1, vocab_size * element_bytes);
  return std::max<int64_t>(16, (large ? kLargeChunkBytes : kChunkBytes) / row_bytes);
}

void head_loss(const at::Tensor& x_ND, const at::Tensor& w_VD, std::span<const int64_t> targets,
               const at::Tensor& loss_scale, at::Tensor& loss_sum, at::Tensor& dx_ND,
               at::Tensor& dw_VD, bool accumulate, int64_t chunk_rows) {
  check_inputs(x_ND, w_VD, targets, dx_ND, dw_VD);
  check_sums(loss_scale, "loss_scale", 1);
  check_sums(loss_sum, "loss_sum", 1);
  const int64_t num_rows = x_ND.size(0), vocabulary = w_VD.size(0);
  if (num_rows == 0) {
    if (dw_VD.defined() && !accumulate) dw_VD.zero_();
    return;
  }
  if (chunk_rows <= 0)
    chunk_rows = head_loss_chunk_rows(vocabulary, w_VD.element_size(),
                                      dw_VD.defined() || device::takes(x_ND));
  chunk_rows = std::min(chunk_rows, num_rows);
  if (!device::takes(x_ND)) check_targets(targets, vocabulary);

  const at::Tensor losses = at::empty({num_rows}, loss_sum.options());
  const at::Tensor z_buffer = logits_buffer(x_ND, chunk_rows, vocabulary);
  for (int64_t begin = 0; begin < num_rows; begin += chunk_rows) {
    const int64_t rows = std::min(chunk_rows, num_rows - begin);
    const at::Tensor x = x_ND.narrow(0, begin, rows);
    at::Tensor z = z_buffer.narrow(0, 0, rows);
    unchecked::matmul(x, w_VD.t(), z, false);
    const CrossEntropyArgs args{.cols = vocabulary,
                                .z = mutable_rows(z),
                                .targets = targets.data() + begin,
                                .scale = loss_scale.const_data_ptr<double>(),
                                .with_gradient = dx_ND.defined() || dw_VD.defined(),
                                .losses = losses.mutable_data_ptr<double>() + begin};
    run_rows(z, head_loss_kernels, &HeadLossKernels::cross_entropy, args, vocabulary);
    if (dx_ND.defined()) {
      at::Tensor dx = dx_ND.narrow(0, begin, rows);
      unchecked::matmul(z, w_VD, dx, false);
    }
    if (dw_VD.defined()) unchecked::matmul(z.t(), x, dw_VD, accumulate || begin > 0);
  }
  add_losses(losses, loss_sum);
}

}  // namespace vax::ops
