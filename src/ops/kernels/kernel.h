// How the header of an operator names its kernels. The operator NAME has one struct of them, a
// table of function pointers, and tables in several places:
//   NAME.inl   vector loops for the CPU, compiled once for each instruction set, a table for each;
//              NAME_kernels.cpu() is that of the processor
//   NAME.cu    kernels for GPUs: NAME_kernels.device()
// NAME.cpp checks the shapes, once, and calls them. A function that a place does not have is null.
//
// Invariants that are easy to break:
//  - a row's result depends on its inputs only, never on the range [begin, end) it is computed in,
//    so that any split over threads gives the same bits (tails run the code of full vectors);
//  - kernels neither allocate nor know of LibTorch; those of the CPU do not throw;
//  - those of a device put their work on the compute stream and do not wait; pointers are device
//    memory; no rows or no elements: nothing happens; sums are made in a fixed order, without
//    atomics: the same bits for the same inputs.
//
// SHAPES of all operators: T tokens, D hidden, F feed-forward, I inputs and O outputs of a linear
// layer, R rank of an adapter, H query heads, KV key heads, K head dimension, N label rows, V
// vocabulary, B sequences, P positions of a cache.
#pragma once

#include <cstdint>

#include "ops/kernels/cpu_target.h"

namespace at {
class Tensor;
}

namespace vax::ops {

enum class Elem : uint8_t { kFloat, kBfloat16 };

struct Bf16 {
  uint16_t bits;
};

// Rows of a matrix whose elements within a row are contiguous; stride in elements.
struct ConstRows {
  const void* data;
  Elem elem;
  int64_t stride;
};
struct Rows {
  void* data;
  Elem elem;
  int64_t stride;  // elements
  [[gnu::always_inline]] operator ConstRows() const { return {data, elem, stride}; }
};

// A kernel over rows [begin, end). On a device it is called for all rows: begin is 0.
template <typename Args>
using RowKernel = void (*)(const Args&, int64_t begin, int64_t end);

// The tables of one operator.
template <typename Table>
struct KernelSet {
  const Table* by_target[kNumCpuTargets];  // null: not compiled in
  const Table* on_device;

  const Table& on(CpuTarget target) const { return *by_target[static_cast<int>(target)]; }
  const Table& cpu() const { return on(cpu_target()); }
  const Table& device() const { return *on_device; }
};

// VAX_KERNELS(SwigluKernels, swiglu_kernels); declares the tables of that name in the namespaces of
// the instruction sets and in `device`, and beside them the set of all. The other two are for
// operators without a NAME.cu or without a NAME.inl.
#if defined(__x86_64__)
#define VAX_DECLARE_CPU_TABLES(Table, name) \
  namespace generic {                       \
  extern const Table name;                  \
  }                                         \
  namespace avx2 {                          \
  extern const Table name;                  \
  }                                         \
  namespace avx512 {                        \
  extern const Table name;                  \
  }                                         \
  namespace avx512bf16 {                    \
  extern const Table name;                  \
  }
#define VAX_CPU_TABLES(name) \
  { &generic::name, &avx2::name, &avx512::name, &avx512bf16::name }
#else
#define VAX_DECLARE_CPU_TABLES(Table, name) \
  namespace generic {                       \
  extern const Table name;                  \
  }
#define VAX_CPU_TABLES(name) \
  { &generic::name }
#endif
#define VAX_DECLARE_DEVICE_TABLE(Table, name) \
  namespace device {                          \
  extern const Table name;                    \
  }

#define VAX_KERNELS(Table, name)        \
  VAX_DECLARE_CPU_TABLES(Table, name)   \
  VAX_DECLARE_DEVICE_TABLE(Table, name) \
  inline constexpr KernelSet<Table> name = {VAX_CPU_TABLES(name), &device::name}
#define VAX_CPU_KERNELS(Table, name)  \
  VAX_DECLARE_CPU_TABLES(Table, name) \
  inline constexpr KernelSet<Table> name = {VAX_CPU_TABLES(name), nullptr}
#define VAX_DEVICE_KERNELS(Table, name) \
  VAX_DECLARE_DEVICE_TABLE(Table, name) \
  inline constexpr KernelSet<Table> name = {{}, &device::name}

}  // namespace vax::ops
