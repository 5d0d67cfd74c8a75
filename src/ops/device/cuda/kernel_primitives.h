// What kernels need of CUDA, for GPUs. launch.h builds on it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "base/error.h"
#include "ops/device/stream.h"
#include "ops/kernels/kernel.h"

// VAX_SHARED(float, sums, [2][32]): static shared memory of a block, its contents undefined.
#define VAX_SHARED(type, name, extents) __shared__ type name extents

namespace vax::ops::device {

// Puts a kernel on the compute stream; a grid without blocks is nothing to do. Not by <<<>>>, which
// the formatter takes apart. THROWS CommError when CUDA refuses.
template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, const Args&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = static_cast<cudaStream_t>(compute_stream());
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
  if (error != cudaSuccess) {
    throw CommError(cat("a kernel of ", grid.x, " x ", grid.y, " x ", grid.z, " blocks of ",
                        block.x * block.y * block.z,
                        " threads could not be launched: ", cudaGetErrorString(error)));
  }
}

// To the nearest, ties to even: the bits that LibTorch makes on the same device.
__device__ __forceinline__ Bf16 to_bf16(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
}
__device__ __forceinline__ uint32_t to_bf16_pair(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// 2 or 4 words that are read and written at once. A plain store of a CUDA vector became four (CUDA
// 13.0); __stwb() is one, to global memory: a GPU faults where the address is of shared memory.
__device__ __forceinline__ void load_words(const void* from, uint32_t (&to)[2]) {
  const uint2 v = *static_cast<const uint2*>(from);
  to[0] = v.x, to[1] = v.y;
}
__device__ __forceinline__ void load_words(const void* from, uint32_t (&to)[4]) {
  const uint4 v = *static_cast<const uint4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
__device__ __forceinline__ void store_words(void* to, const uint32_t (&from)[2]) {
  __stwb(static_cast<uint2*>(to), make_uint2(from[0], from[1]));
}
__device__ __forceinline__ void store_words(void* to, const uint32_t (&from)[4]) {
  __stwb(static_cast<uint4*>(to), make_uint4(from[0], from[1], from[2], from[3]));
}

// The processor's own (relative error of exp about 2e-6 where |x| < 20).
__device__ __forceinline__ float fast_exp(float x) { return __expf(x); }
__device__ __forceinline__ float fast_inverse(float x) { return __fdividef(1.0f, x); }

}  // namespace vax::ops::device
