// Masks by the vectorised Philox of dropout.inl; the scalar one in base/philox.h is the test's
// oracle.
#include "ops/dropout.h"

#include <ATen/ATen.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/narrow.h"
#include "base/philox.h"
#include "ops/device/runtime.h"
#include "ops/parallel.h"
#include "ops/rows.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

void check_dropout(const DropoutKey& key, int64_t num_tokens) {
  VAX_CHECK(key.p >= 0 && key.p < 1, "dropout probability is ", key.p, ", expected [0, 1)");
  if (key.p == 0) return;
  VAX_CHECK(std::ssize(key.rows) == num_tokens && std::ssize(key.positions) == num_tokens,
            "dropout needs the place of every token: ", num_tokens, " tokens, ", key.rows.size(),
            " rows, ", key.positions.size(), " positions");
}

}  // namespace

DropoutMask::DropoutMask(const DropoutKey& key, int64_t num_tokens, int64_t num_channels)
    : active_(key.p > 0), scale_(static_cast<float>(1 / (1 - key.p))), args_{} {
  check_dropout(key, num_tokens);
  if (!active_) return;
  const PhiloxKey philox = philox_key(key.seed, key.stream);
  args_ = {.key = {philox[0], philox[1]},
           .site = key.site,
           .threshold = static_cast<uint32_t>(std::lround(key.p * 65536)),
           .rows = key.rows.data(),
           .positions = key.positions.data(),
           .num_groups = ceil_div<int64_t>(num_channels, 8),
           .device_key = key.device_key};
}

void dropout(const at::Tensor& x_TD, const DropoutKey& key, at::Tensor& y_TD) {
  VAX_CHECK(x_TD.dim() == 2, "x has shape ", x_TD.sizes(), ", expected [T, D]");
  check_tensor(x_TD, "x", x_TD.sizes(), Types::kFloatOrBf16);
  check_tensor(y_TD, "y", x_TD.sizes(), Types::kFloatOrBf16);
  check_same_type(x_TD, "x", y_TD, "y");
  const DropoutMask mask(key, x_TD.size(0), x_TD.size(1));
  const int64_t cols = x_TD.size(1);
  const ConstRows x = const_rows(x_TD);
  const Rows y = mutable_rows(y_TD);
  if (device::takes(x_TD)) {
    return dropout_kernels.device().apply(
        {.cols = cols, .x = x, .y = y, .scale = mask.scale(), .mask = mask.args()}, 0,
        x_TD.size(0));
  }
  parallel_for(0, x_TD.size(0), grain_rows(cols), [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> bits(static_cast<size_t>(mask.row_bytes()));
    for (int64_t row = begin; row < end; ++row) {
      if (mask.active()) mask.draw(row, row + 1, bits.data());
      rows_kernels.cpu().convert({.cols = cols,
                                  .src = from(x, row),
                                  .dst = from(y, row),
                                  .scale = mask.scale(),
                                  .mask = mask.active() ? bits.data() : nullptr},
                                 1);
    }
  });
}

}  // namespace vax::ops
