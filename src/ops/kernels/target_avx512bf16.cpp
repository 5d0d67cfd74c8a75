// Kernels for AVX-512 F, BW, DQ, VL and BF16: as target_avx512.cpp, with products of bf16 pairs.
#define VAX_KERNEL_TARGET avx512bf16
#define VAX_VECTOR_BYTES 64
#include "ops/kernels/all.inl"
