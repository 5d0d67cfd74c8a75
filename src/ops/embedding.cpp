// On the CPU rows are copied (widened from bf16) forward and added backward.
#include "ops/embedding.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "ops/device/runtime.h"
#include "ops/parallel.h"
#include "ops/rows.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

void check_ids(std::span<const int64_t> ids, const at::Tensor& w_VD) {
  for (size_t t = 0; t < ids.size(); ++t) {
    VAX_CHECK(ids[t] >= 0 && ids[t] < w_VD.size(0), "id ", ids[t], " of token ", t,
              " is outside the vocabulary of ", w_VD.size(0));
  }
}

// Tokens by id; a stable sort leaves those of one id in their order.
void add_sorted(const at::Tensor& dx_TD, std::span<const int64_t> ids, const at::Tensor& dw_VD) {
  const int64_t num_tokens = dx_TD.size(0);
  if (num_tokens == 0) return;
  const at::Tensor ids_T = at::from_blob(const_cast<int64_t*>(ids.data()), {num_tokens},
                                         dx_TD.options().dtype(at::kLong));
  const auto [sorted, order] = at::sort(ids_T, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  embedding_kernels.device().backward({.cols = dx_TD.size(1),
                                       .dx = const_rows(dx_TD),
                                       .sorted_ids = sorted.const_data_ptr<int64_t>(),
                                       .order = order.const_data_ptr<int64_t>(),
                                       .dw = mutable_rows(dw_VD)},
                                      0, num_tokens);
}

}  // namespace

void embedding_forward(std::span<const int64_t> ids, const at::Tensor& w_VD, at::Tensor& x_TD) {
  VAX_CHECK(w_VD.dim() == 2, "w has shape ", w_VD.sizes(), ", expected [V, D]");
  const auto num_tokens = static_cast<int64_t>(ids.size());
  const int64_t cols = w_VD.size(1);
  check_tensor(w_VD, "w", w_VD.sizes(), Types::kFloatOrBf16);
  check_tensor(x_TD, "x", {num_tokens, cols}, Types::kFloat);
  const ConstRows table = const_rows(w_VD);
  const Rows x = mutable_rows(x_TD);
  if (device::takes(x_TD)) {
    return embedding_kernels.device().forward({.cols = cols, .ids = ids.data(), .w = table, .x = x},
                                              0, num_tokens);
  }
  check_ids(ids, w_VD);
  parallel_for(0, num_tokens, grain_rows(cols), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const ConstRows row = from(table, ids[static_cast<size_t>(t)]);
      rows_kernels.cpu().convert({.cols = cols, .src = row, .dst = from(x, t)}, 1);
    }
  });
}

// On the CPU threads share the columns, not the tokens: each walks all tokens in order, so that a
// row that several tokens add to gets its sum in token order on any number of threads.
void embedding_backward(const at::Tensor& dx_TD, std::span<const int64_t> ids, at::Tensor& dw_VD,
                        bool accumulate) {
  VAX_CHECK(dw_VD.dim() == 2, "dw has shape ", dw_VD.sizes(), ", expected [V, D]");
  const auto num_tokens = static_cast<int64_t>(ids.size());
  const int64_t cols = dw_VD.size(1);
  check_tensor(dx_TD, "dx", {num_tokens, cols}, Types::kFloat);
  check_tensor(dw_VD, "dw", dw_VD.sizes(), Types::kFloat);
  if (!accumulate) dw_VD.zero_();
  if (device::takes(dx_TD)) return add_sorted(dx_TD, ids, dw_VD);
  check_ids(ids, dw_VD);
  const float* dx = dx_TD.const_data_ptr<float>();
  float* dw = dw_VD.mutable_data_ptr<float>();
  const int64_t dx_stride = dx_TD.stride(0), dw_stride = dw_VD.stride(0);
  constexpr int64_t kFewestColumns = 64;
  parallel_for(0, cols, kFewestColumns, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < num_tokens; ++t) {
      const float* from = dx + t * dx_stride;
      float* to = dw + ids[static_cast<size_t>(t)] * dw_stride;
      for (int64_t c = begin; c < end; ++c) to[c] += from[c];
    }
  });
}

}  // namespace vax::ops
