// Embedding and AdamW on a device.
#include <ATen/ATen.h>

#include "ops/device/kernels.h"
#include "ops/device/ops.h"
#include "ops/device/runtime.h"
#include "ops/tensor_rows.h"

namespace vax::ops::device {

void embedding_forward(const int64_t* ids, const at::Tensor& w_VD, at::Tensor& x_TD) {
  launch_embedding_forward(ids, const_rows(w_VD), x_TD.size(0), x_TD.size(1), mutable_rows(x_TD),
                           compute_stream());
}

// A stable sort leaves the tokens of one id in their order.
void embedding_backward(const at::Tensor& dx_TD, const int64_t* ids, at::Tensor& dw_VD) {
  const int64_t num_tokens = dx_TD.size(0);
  if (num_tokens == 0) return;
  const at::Tensor ids_T =
      at::from_blob(const_cast<int64_t*>(ids), {num_tokens}, dx_TD.options().dtype(at::kLong));
  const auto [sorted, order] = at::sort(ids_T, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  launch_embedding_backward({.rows = num_tokens,
                             .cols = dx_TD.size(1),
                             .dx = const_rows(dx_TD),
                             .sorted_ids = sorted.const_data_ptr<int64_t>(),
                             .order = order.const_data_ptr<int64_t>(),
                             .dw = mutable_rows(dw_VD)},
                            compute_stream());
}

void adamw_update(const AdamWArgs& args, int64_t count) {
  launch_adamw(args, count, compute_stream());
}

}  // namespace vax::ops::device
