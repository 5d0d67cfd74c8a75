// Dropout masks as a pure function of where an element stands, so that they are the same for any
// number of ranks, any micro-batch and any packing, and need no storage: Philox4x32-10 with
//   key     = philox_key(seed, stream)         stream: step and pass, see dropout_stream()
//   counter = (row, position, site, channel / 8), 8 channels of 16 bits per draw: channel 8 g + 2 j
//             has the low half of word j, channel 8 g + 2 j + 1 the high half
// An element is dropped when its 16 bits are < round(p * 65536); kept ones are scaled by 1 / (1 -
// p) with p the option's value.
// THROWS std::logic_error where a shape (letters: kernels/kernel.h), type or device does not fit.
#pragma once

#include <cstdint>
#include <span>

#include "ops/kernels/kernel.h"

namespace vax::ops {

struct DropoutKey {
  double p = 0;  // 0: no dropout
  uint64_t seed = 0;
  uint64_t stream = 0;  // dropout_stream(step, pass)
  uint32_t site = 0;    // which module: layer * 16 + projection
  // Where each of the T tokens stands; both of length T, borrowed, in the memory of the tensors.
  std::span<const int32_t> rows;       // sequence's index in the global batch
  std::span<const int32_t> positions;  // position in the sequence
  // Device operators only: philox_key(seed, stream) as two words in device memory, read when the
  // kernel runs, so that what was captured once serves every step. Null: seed and stream count.
  const uint32_t* device_key = nullptr;
};

constexpr uint64_t dropout_stream(uint64_t step, uint64_t pass) { return step * 4 + pass; }

// y = mask(x) / (1 - p). SHAPES x, y [T, D], fp32 or bf16, same type; y may be x.
// The reference of the masks that lora.h applies on the fly; also used by tests.
// THROWS std::logic_error unless 0 <= p < 1 and, with p > 0, rows and positions have length T.
void dropout(const at::Tensor& x_TD, const DropoutKey& key, at::Tensor& y_TD);

// Kernels: for dropout.cpp and operators that draw masks.

// One byte per group of 8 channels: bit j is set when channel 8 g + j is kept. Rows of a mask are
// padded to what the widest kernel draws at once.
[[gnu::always_inline]] constexpr int64_t mask_row_bytes(int64_t num_groups) {
  return (num_groups + 31) / 32 * 32;
}
struct MaskArgs {
  uint32_t key[2];
  uint32_t site;
  uint32_t threshold;  // dropped when the 16 bits are below; at most 65536
  const int32_t *rows, *positions;
  int64_t num_groups;
  // Of a device, unless null: where the two words of the key are read instead.
  const uint32_t* device_key = nullptr;
};
struct DropoutArgs {
  int64_t cols;
  ConstRows x;
  Rows y;  // type of x
  float scale;
  MaskArgs mask;
};
struct DropoutKernels {
  // Of a CPU: masks of rows [begin, end), the first one's at `mask`, mask_row_bytes(num_groups)
  // apart.
  void (*draw_mask)(const MaskArgs&, int64_t begin, int64_t end, uint8_t* mask) = nullptr;
  RowKernel<DropoutArgs> apply = nullptr;  // of a device: y = mask(x) * scale
};
VAX_KERNELS(DropoutKernels, dropout_kernels);

// The mask of a key for operators that apply it on the fly; draws nothing when p is 0.
class DropoutMask {
 public:
  // THROWS std::logic_error unless 0 <= p < 1 and, with p > 0, rows and positions have num_tokens.
  DropoutMask(const DropoutKey& key, int64_t num_tokens, int64_t num_channels);

  bool active() const { return active_; }
  float scale() const { return scale_; }  // 1 / (1 - p)
  int64_t row_bytes() const { return active_ ? mask_row_bytes(args_.num_groups) : 0; }
  // Bits of tokens [begin, end); `bits` has (end - begin) * row_bytes().
  void draw(int64_t begin, int64_t end, uint8_t* bits) const {
    dropout_kernels.cpu().draw_mask(args_, begin, end, bits);
  }
  // For kernels that draw it themselves; a threshold of 0: nothing is dropped.
  const MaskArgs& args() const { return args_; }

 private:
  bool active_;
  float scale_;
  MaskArgs args_;
};

}  // namespace vax::ops
