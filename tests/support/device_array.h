// Elements in device memory, for tests of device groups: with the stand-in, and with a device.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "support/compute_stream.h"

namespace vax::testing {

// Copies between host and array go through the compute stream and pinned memory, in its order.
template <typename T>
class DeviceArray {
 public:
  static_assert(std::is_trivially_copyable_v<T>);
  DeviceArray(ComputeStream& stream, const std::vector<T>& values)
      : stream_(stream), count_(values.size()) {
    EXPECT_EQ(cudaMalloc(&data_, num_bytes() + 1), cudaSuccess);
    EXPECT_EQ(cudaHostAlloc(&pinned_, num_bytes() + 1, cudaHostAllocDefault), cudaSuccess);
    std::copy(values.begin(), values.end(), static_cast<T*>(pinned_));
    EXPECT_EQ(cudaMemcpyAsync(data_, pinned_, num_bytes(), cudaMemcpyHostToDevice, stream_.get()),
              cudaSuccess);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
    EXPECT_EQ(cudaStreamSynchronize(stream_.get()), cudaSuccess);
    EXPECT_EQ(cudaFree(data_), cudaSuccess);
    EXPECT_EQ(cudaFreeHost(pinned_), cudaSuccess);
  }

  T* data() const { return static_cast<T*>(data_); }
  // What is there once the compute stream has come here.
  std::vector<T> values() const {
    EXPECT_EQ(cudaMemcpyAsync(pinned_, data_, num_bytes(), cudaMemcpyDeviceToHost, stream_.get()),
              cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_.get()), cudaSuccess);
    const T* const begin = static_cast<const T*>(pinned_);
    return std::vector<T>(begin, begin + count_);
  }

 private:
  size_t num_bytes() const { return count_ * sizeof(T); }
  ComputeStream& stream_;
  size_t count_;
  void* data_ = nullptr;
  void* pinned_ = nullptr;
};

}  // namespace vax::testing
