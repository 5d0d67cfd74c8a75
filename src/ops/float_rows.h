// Private to this folder.
// A block of rows as fp32 with scratch memory that is reused from block to block: the source's own
// memory when it is fp32 and nothing is masked, else a converted copy. One object per thread.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"
#include "ops/rows.h"
#include "ops/scratch.h"

namespace vax::ops {

class FloatRows {
 public:
  struct View {
    const float* data;
    int64_t stride;
  };

  // The first `count` rows and `cols` columns of source; elements whose bit in `mask` (null: none)
  // is 0 read as 0. Valid until the next call.
  View get(ConstRows source, int64_t count, int64_t cols, const uint8_t* mask = nullptr,
           int64_t mask_stride = 0) {
    if (mask == nullptr && source.elem == Elem::kFloat) {
      return {static_cast<const float*>(source.data), source.stride};
    }
    if (buffer_.size() < static_cast<size_t>(count * cols)) {
      buffer_.resize(static_cast<size_t>(count * cols));
    }
    rows_kernels.cpu().convert({.cols = cols,
                                .src = source,
                                .dst = {buffer_.data(), Elem::kFloat, cols},
                                .mask = mask,
                                .mask_stride = mask_stride},
                               count);
    return {buffer_.data(), cols};
  }

 private:
  FloatScratch buffer_;
};

}  // namespace vax::ops
