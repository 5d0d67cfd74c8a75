// What kernels need of CUDA (src/ops/device/launch.h), on the host: CUDA's names and launches are
// the emulation's, and what GPUs do by instructions of their own is plain code with the same
// results.
#pragma once

#include <emulation.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "ops/kernels/kernel.h"

// VAX_SHARED(float, sums, [2][32]): static shared memory of a block, its contents undefined.
#define VAX_SHARED(type, name, extents)  \
  static thread_local type name extents; \
  ::vax::emulation::fill_shared(&name, sizeof(name))

namespace vax::ops::device {

using namespace vax::emulation;  // CUDA's names, which CUDA has in the global namespace

// Runs a kernel; a grid without blocks is nothing to do.
template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, const Args&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  check_arguments(args...);
  run(grid, block, [=] { kernel(static_cast<Params>(args)...); });
}

// To the nearest, ties to even.
inline Bf16 to_bf16(float x) {
  if (x != x) return {0x7fc0};
  const auto bits = __builtin_bit_cast(uint32_t, x);
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
inline uint32_t to_bf16_pair(float low, float high) {
  return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16;
}

// 2 or 4 words that are read and written at once; what is written is global memory.
template <int N>
void load_words(const void* from, uint32_t (&to)[N]) {
  check_aligned(from, sizeof(to));
  std::memcpy(to, from, sizeof(to));
}
template <int N>
void store_words(void* to, const uint32_t (&from)[N]) {
  check_global(to);
  check_aligned(to, sizeof(from));
  std::memcpy(to, from, sizeof(from));
}

inline float fast_exp(float x) { return expf(x); }
inline float fast_inverse(float x) { return 1.0f / x; }

}  // namespace vax::ops::device
