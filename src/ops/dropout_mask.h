// Bits of dropout masks for the operators that apply them on the fly.
#pragma once

#include <cstdint>

#include "ops/dropout.h"
#include "ops/kernels/table.h"

namespace vax::ops {

// THROWS std::logic_error unless 0 <= p < 1 and, with p > 0, rows and positions have num_tokens.
void check_dropout(const DropoutKey& key, int64_t num_tokens);

// The mask of num_tokens x num_channels elements; draws nothing when p is 0.
// THROWS as check_dropout().
class DropoutMask {
 public:
  DropoutMask(const DropoutKey& key, int64_t num_tokens, int64_t num_channels);

  bool active() const { return active_; }
  float scale() const { return scale_; }  // 1 / (1 - p)
  int64_t row_bytes() const { return active_ ? mask_row_bytes(args_.num_groups) : 0; }
  // Bits of tokens [begin, end); `bits` has (end - begin) * row_bytes().
  void draw(int64_t begin, int64_t end, uint8_t* bits) const {
    kernels().draw_mask(args_, begin, end, bits);
  }

 private:
  bool active_;
  float scale_;
  MaskArgs args_;
};

}  // namespace vax::ops
