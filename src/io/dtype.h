// Element types of safetensors files and their conversion to the two types the engine computes in.
// Conversions round once, to nearest with ties to even, and keep NaN, infinities and subnormals: a
// checkpoint read here equals the one that PyTorch's Tensor.to() gives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace vax::io {

enum class DType {
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kI64,
  kU64,
  kF64
};

// What read_elements() delivers.
enum class TargetType { kFloat32, kBFloat16 };

// The name in a safetensors header ("BF16").
std::string_view dtype_name(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);
int64_t dtype_size(DType dtype);         // bytes per element
int64_t target_size(TargetType target);  // bytes per element
std::string_view target_name(TargetType target);

// F64, F32, F16 and BF16 can be converted to both targets; the others to none.
bool is_convertible(DType dtype);

// `count` elements at `source`, of type `dtype`, to `destination`. REQUIRES is_convertible(dtype);
// the two do not overlap. Neither needs to be aligned.
void convert_elements(DType dtype, const std::byte* source, int64_t count, TargetType target,
                      std::byte* destination);

// bf16 bits of a number and back; the writer's side of the same rounding.
uint16_t bf16_from_float(float value);
float float_from_bf16(uint16_t bits);
float float_from_f16(uint16_t bits);

}  // namespace vax::io
