// Counts the bytes that tensors hold where the program computes: on a device by the statistics of
// its allocator, on a host by standing in front of LibTorch's CPU allocator. Memory outside of them
// is not counted: memory shared on a node, operators' own scratch, data, libraries.
#pragma once

#include <cstdint>

namespace vax::train {

// From here on tensors are counted; call once, before the first tensor is made. Threads may
// allocate at any time.
void count_tensor_memory();

// Bytes held now, and the most since the last reset_tensor_peak(). 0 without
// count_tensor_memory().
int64_t tensor_bytes();
int64_t tensor_peak_bytes();
void reset_tensor_peak();

}  // namespace vax::train
