// Kernels for any processor: 16-byte vectors, the compiler's default instruction set.
#define VAX_KERNEL_TARGET generic
#define VAX_VECTOR_BYTES 16
#include "ops/kernels/all.inl"
