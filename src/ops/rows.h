// Private to this folder.
// What CPU operators do with rows of either type: conversion and dot products.
#pragma once

#include <cstdint>

#include "ops/kernels/kernel.h"

namespace vax::ops {

// dst = src * scale * row_scale[row], or 0 where the mask's bit is 0.
struct ConvertArgs {
  int64_t cols;
  ConstRows src;
  Rows dst;
  float scale = 1;
  const float* row_scale = nullptr;  // null: 1
  const uint8_t* mask = nullptr;     // bit c % 8 of byte c / 8; null: keep all
  int64_t mask_stride = 0;           // bytes
};
struct RowsKernels {
  void (*convert)(const ConvertArgs&, int64_t rows);
  // out[i] = sum over columns of a * b.
  void (*row_dots)(ConstRows a, ConstRows b, int64_t rows, int64_t cols, float* out);
};
VAX_CPU_KERNELS(RowsKernels, rows_kernels);

}  // namespace vax::ops
