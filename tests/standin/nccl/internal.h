// What the two halves of the stand-in share.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "memory.h"

namespace standin {

void* allocate(size_t num_bytes, bool is_pinned);
void release(void* memory);

// Ends the process when host memory is given for the device's. Without protection it may be.
void check_is_device_memory(const void* memory, size_t num_bytes);

// What set_operation_delay() says, on the calling thread.
void pause();

// Puts `work` on the stream.
void enqueue(cudaStream_t stream, std::function<void()> work);

struct RuntimeCounts {
  int64_t streams = 0, events = 0, allocations = 0;
};
RuntimeCounts runtime_counts();

}  // namespace standin
