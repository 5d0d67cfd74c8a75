// Dropout masks as a pure function of where an element stands, so that they are the same for any
// number of ranks, any micro-batch and any packing, and need no storage: Philox4x32-10 with
//   key     = philox_key(seed, stream)         stream: step and pass, see dropout_stream()
//   counter = (row, position, site, channel / 8), 8 channels of 16 bits per draw: channel 8 g + 2 j
//             has the low half of word j, channel 8 g + 2 j + 1 the high half
// An element is dropped when its 16 bits are < round(p * 65536); kept ones are scaled by 1 / (1 -
// p) with p the option's value.
// THROWS std::logic_error where a shape, a type or the device of a tensor does not fit.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

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

}  // namespace vax::ops
