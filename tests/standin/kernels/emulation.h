// Runs CUDA kernels on the host, for tests: the .cu files compiled as C++. The blocks of a grid run
// one after another. The threads of a block are fibers that change only where a kernel waits for
// others (__syncthreads, __syncwarp, warp exchanges); between two waits a thread runs alone. So a
// barrier that is missing changes what a kernel computes, and it does so in a way that depends on
// the order of the threads: VAX_EMULATION_ORDER (forward | backward | random) or set_order() choose
// it. A kernel that never waits runs as a plain loop over its threads.
//
// What is stricter than a GPU: every thread of a block reaches every barrier, also those without
// work; warp functions take the full mask; blocks are multiples of 32 threads. Shared memory is
// filled with NaN at the start of each block.
//
// Included by kernel_primitives.h, which kernels include in place of CUDA's; nothing else does.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>

// What CUDA's compiler knows and C++ does not.
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace vax::emulation {

// CUDA's names, for code that is written for CUDA.
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1)
      : x(x_size), y(y_size), z(z_size) {}
};
// Of the thread that runs now.
extern constinit thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

enum class Order { kForward, kBackward, kRandom };
// For later launches of this process. At first that of VAX_EMULATION_ORDER, else forward.
void set_order(Order order);

// Runs `thread` once for every thread of the grid, as work of the stand-in's stream
// (../device/stream.h). THROWS what a thread throws, std::logic_error when threads of a block wait
// for others that have ended, and for sizes that no GPU takes.
void run(dim3 grid, dim3 block, std::function<void()> thread);

// THROWS std::logic_error when 8 of the bytes at a multiple of 8 look like the address of something
// that is not device memory, once that is protected.
void check_argument(const void* argument, size_t num_bytes);

// Addresses among a kernel's arguments, also inside of structures.
template <typename... Args>
void check_arguments([[maybe_unused]] Args... args) {
#if __has_builtin(__builtin_clear_padding)
  // What is between members may be left from anything.
  (__builtin_clear_padding(&args), ...);
  (check_argument(&args, sizeof(args)), ...);
#endif
}

// What follows is called by the threads of a kernel only.

// Waits for all threads of the block.
void sync_block();
// Waits for all 32 threads of the warp; returns the values that they gave, by lane. Valid until the
// thread's next call of it.
const uint64_t* exchange(uint64_t value);
// Fills shared memory at the first call of a block.
void fill_shared(void* memory, size_t num_bytes);
// THROWS std::logic_error when the address lies in the block's shared memory.
void check_global(const void* address);
// THROWS std::logic_error unless the address is a multiple of num_bytes.
void check_aligned(const void* address, size_t num_bytes);

template <typename T>
T from_lane(const uint64_t* values, unsigned lane) {
  T value;
  std::memcpy(&value, values + lane, sizeof(T));
  return value;
}

template <typename T>
const uint64_t* exchange_values(T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return exchange(bits);
}

inline unsigned lane() { return threadIdx.x % 32; }

inline void __syncthreads() { sync_block(); }
inline void __syncwarp(unsigned = ~0u) { exchange(0); }

template <typename T>
T __shfl_sync(unsigned, T value, int source) {
  return from_lane<T>(exchange_values(value), static_cast<unsigned>(source) % 32);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int distance) {
  return from_lane<T>(exchange_values(value), lane() ^ static_cast<unsigned>(distance));
}
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned distance) {
  const unsigned source = lane() + distance;
  return from_lane<T>(exchange_values(value), source < 32 ? source : lane());
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned distance) {
  const uint64_t* values = exchange_values(value);
  return from_lane<T>(values, distance <= lane() ? lane() - distance : lane());
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  const uint64_t* votes = exchange(vote ? 1 : 0);
  unsigned ballot = 0;
  for (unsigned i = 0; i < 32; ++i) ballot |= static_cast<unsigned>(votes[i]) << i;
  return ballot;
}

}  // namespace vax::emulation
