// Kernels for AVX2 with FMA: 32-byte vectors.
#define VAX_KERNEL_TARGET avx2
#define VAX_VECTOR_BYTES 32
#include "ops/kernels/all.inl"
