// Kernels for AVX-512 F, BW, DQ and VL: 64-byte vectors.
#define VAX_KERNEL_TARGET avx512
#define VAX_VECTOR_BYTES 64
#include "ops/kernels/all.inl"
