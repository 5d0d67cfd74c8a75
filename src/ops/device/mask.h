// Dropout masks inside kernels (.cu): drawn where they are applied, by groups of 8 channels, which
// is what one draw of Philox decides (ops/dropout.h); the same bits as on a CPU.
#pragma once

#include <cstdint>

#include "base/philox.h"
#include "ops/device/launch.h"
#include "ops/dropout.h"

namespace vax::ops::device {

constexpr int kMaskGroup = 8;  // channels of one draw

// What all masks of a launch share, and where one token stands.
struct MaskKey {
  uint32_t key0, key1, site, threshold;
};
struct MaskRow {
  uint32_t row, position;
};

__device__ __forceinline__ MaskKey mask_key(const MaskArgs& mask) {
  if (mask.threshold == 0) return {};
  const bool on_device = mask.device_key != nullptr;
  return {on_device ? mask.device_key[0] : mask.key[0],
          on_device ? mask.device_key[1] : mask.key[1], mask.site, mask.threshold};
}

__device__ __forceinline__ MaskRow mask_row(const MaskArgs& mask, int64_t token) {
  if (mask.threshold == 0) return {};
  return {static_cast<uint32_t>(mask.rows[token]), static_cast<uint32_t>(mask.positions[token])};
}

// Zeroes the channels of the group that `col` begins where they are dropped.
__device__ __forceinline__ void apply_mask(const MaskKey& mask, MaskRow place, int64_t col,
                                           float (&x)[kMaskGroup]) {
  if (mask.threshold == 0) return;
  uint32_t c[4] = {place.row, place.position, mask.site, static_cast<uint32_t>(col / kMaskGroup)};
  uint32_t key0 = mask.key0, key1 = mask.key1;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kPhiloxM0} * c[0], p1 = uint64_t{kPhiloxM1} * c[2];
    c[0] = static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ key0;
    c[1] = static_cast<uint32_t>(p1);
    c[2] = static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ key1;
    c[3] = static_cast<uint32_t>(p0);
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if ((c[j] & 0xffffu) < mask.threshold) x[2 * j] = 0.0f;
    if ((c[j] >> 16) < mask.threshold) x[2 * j + 1] = 0.0f;
  }
}

// Channels [col, col + 8) of a row; 0 beyond its end. kWide: whole groups that can be loaded at
// once.
template <bool kWide, typename T>
__device__ __forceinline__ void load_group(const T* row, int64_t col, int64_t cols,
                                           float (&to)[kMaskGroup]) {
  if constexpr (kWide) {
    load(row + col, to);
  } else {
#pragma unroll
    for (int j = 0; j < kMaskGroup; ++j) to[j] = col + j < cols ? to_float(row[col + j]) : 0.0f;
  }
}
template <bool kWide, typename T>
__device__ __forceinline__ void store_group(T* row, int64_t col, int64_t cols,
                                            const float (&from)[kMaskGroup]) {
  if constexpr (kWide) {
    store(row + col, from);
  } else {
#pragma unroll
    for (int j = 0; j < kMaskGroup; ++j) {
      if (col + j < cols) row[col + j] = from_float<T>(from[j]);
    }
  }
}

}  // namespace vax::ops::device
