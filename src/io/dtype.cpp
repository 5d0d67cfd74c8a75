#include "io/dtype.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace vax::io {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little-endian and are read without swapping");

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  int64_t size;
};

// In the order of the enumeration. The format's types below one byte (F4, F6) are not here: no
// model that can be trained uses them.
constexpr std::array kDTypes = {
    DTypeInfo{DType::kBool, "BOOL", 1},      DTypeInfo{DType::kU8, "U8", 1},
    DTypeInfo{DType::kI8, "I8", 1},          DTypeInfo{DType::kF8E5M2, "F8_E5M2", 1},
    DTypeInfo{DType::kF8E4M3, "F8_E4M3", 1}, DTypeInfo{DType::kF8E8M0, "F8_E8M0", 1},
    DTypeInfo{DType::kI16, "I16", 2},        DTypeInfo{DType::kU16, "U16", 2},
    DTypeInfo{DType::kF16, "F16", 2},        DTypeInfo{DType::kBF16, "BF16", 2},
    DTypeInfo{DType::kI32, "I32", 4},        DTypeInfo{DType::kU32, "U32", 4},
    DTypeInfo{DType::kF32, "F32", 4},        DTypeInfo{DType::kC64, "C64", 8},
    DTypeInfo{DType::kI64, "I64", 8},        DTypeInfo{DType::kU64, "U64", 8},
    DTypeInfo{DType::kF64, "F64", 8},
};

const DTypeInfo& info_of(DType dtype) { return kDTypes.at(static_cast<size_t>(dtype)); }

// fp32 with the discarded part marked in the last bit ("round to odd"): rounding the result to bf16
// then equals rounding the double once.
float sticky_float(double value) {
  const float rounded = static_cast<float>(value);
  if (static_cast<double>(rounded) == value || std::isnan(value)) return rounded;
  auto bits = std::bit_cast<uint32_t>(rounded);
  if (std::fabs(static_cast<double>(rounded)) > std::fabs(value)) --bits;  // toward zero
  return std::bit_cast<float>(bits | 1u);
}

struct Float32 {
  using Storage = float;
  static float to_float(float value) { return value; }
  static uint16_t to_bf16(float value) { return bf16_from_float(value); }
};
struct Float64 {
  using Storage = double;
  static float to_float(double value) { return static_cast<float>(value); }
  static uint16_t to_bf16(double value) { return bf16_from_float(sticky_float(value)); }
};
struct Float16 {
  using Storage = uint16_t;
  static float to_float(uint16_t bits) { return float_from_f16(bits); }
  static uint16_t to_bf16(uint16_t bits) { return bf16_from_float(float_from_f16(bits)); }
};
struct BFloat16 {
  using Storage = uint16_t;
  static float to_float(uint16_t bits) { return float_from_bf16(bits); }
  static uint16_t to_bf16(uint16_t bits) { return bits; }
};

// memcpy per element because neither side needs to be aligned; compilers turn it into plain moves.
template <typename Source>
void convert(const std::byte* source, int64_t count, TargetType target, std::byte* destination) {
  using Storage = typename Source::Storage;
  const auto load = [source](int64_t i) {
    Storage value;
    std::memcpy(&value, source + i * static_cast<int64_t>(sizeof(Storage)), sizeof(Storage));
    return value;
  };
  if (target == TargetType::kFloat32) {
    for (int64_t i = 0; i < count; ++i) {
      const float value = Source::to_float(load(i));
      std::memcpy(destination + i * 4, &value, 4);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      const uint16_t value = Source::to_bf16(load(i));
      std::memcpy(destination + i * 2, &value, 2);
    }
  }
}

}  // namespace

std::string_view dtype_name(DType dtype) { return info_of(dtype).name; }

std::optional<DType> dtype_from_name(std::string_view name) {
  const auto found =
      std::ranges::find_if(kDTypes, [&](const DTypeInfo& info) { return info.name == name; });
  if (found == kDTypes.end()) return std::nullopt;
  return found->dtype;
}

int64_t dtype_size(DType dtype) { return info_of(dtype).size; }

int64_t target_size(TargetType target) { return target == TargetType::kFloat32 ? 4 : 2; }

std::string_view target_name(TargetType target) {
  return target == TargetType::kFloat32 ? "fp32" : "bf16";
}

bool is_convertible(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 ||
         dtype == DType::kBF16;
}

void convert_elements(DType dtype, const std::byte* source, int64_t count, TargetType target,
                      std::byte* destination) {
  switch (dtype) {
    case DType::kF64:
      return convert<Float64>(source, count, target, destination);
    case DType::kF32:
      return convert<Float32>(source, count, target, destination);
    case DType::kF16:
      return convert<Float16>(source, count, target, destination);
    case DType::kBF16:
      return convert<BFloat16>(source, count, target, destination);
    default:
      VAX_CHECK(false, "no conversion from ", dtype_name(dtype));
  }
}

uint16_t bf16_from_float(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  // A NaN whose payload sits in the discarded half would otherwise become an infinity.
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x0040u);
  const uint32_t ties_to_even = 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>((bits + ties_to_even) >> 16);
}

float float_from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

float float_from_f16(uint16_t bits) {
  constexpr uint32_t kExponent = 0x7c00u << 13;  // the exponent field of fp16, moved into fp32
  uint32_t moved = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  const uint32_t exponent = moved & kExponent;
  moved += (127u - 15u) << 23;
  if (exponent == kExponent) {
    moved += (128u - 16u) << 23;  // infinity or NaN
  } else if (exponent == 0) {
    // A subnormal has no hidden one: give it one and subtract it again. No fp32 subnormal arises,
    // so the result does not depend on a flush-to-zero mode.
    const float shifted = std::bit_cast<float>(moved + (1u << 23));
    moved = std::bit_cast<uint32_t>(shifted - std::bit_cast<float>(113u << 23));
  }
  return std::bit_cast<float>(moved | (static_cast<uint32_t>(bits & 0x8000u) << 16));
}

}  // namespace vax::io
