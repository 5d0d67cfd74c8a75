// The compute stream, for code that knows nothing of LibTorch.
#pragma once

namespace vax::ops::device {

// cudaStream_t; null before select() (runtime.h).
void* compute_stream();

}  // namespace vax::ops::device
