// Conversions against references made another way: arithmetic in double instead of bit patterns.
// All comparisons are exact: a conversion rounds once and has one right answer.
#include "io/dtype.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "io_test_support.h"

namespace vax::io {
namespace {

template <typename From>
std::vector<float> to_fp32(DType dtype, const std::vector<From>& values) {
  std::vector<float> out(values.size());
  convert_elements(dtype, reinterpret_cast<const std::byte*>(values.data()),
                   static_cast<int64_t>(values.size()), TargetType::kFloat32,
                   reinterpret_cast<std::byte*>(out.data()));
  return out;
}

template <typename From>
std::vector<uint16_t> to_bf16(DType dtype, const std::vector<From>& values) {
  std::vector<uint16_t> out(values.size());
  convert_elements(dtype, reinterpret_cast<const std::byte*>(values.data()),
                   static_cast<int64_t>(values.size()), TargetType::kBFloat16,
                   reinterpret_cast<std::byte*>(out.data()));
  return out;
}

// The value of fp16 bits by its definition.
double value_of_f16(unsigned bits) {
  const double sign = (bits & 0x8000u) != 0 ? -1.0 : 1.0;
  const int exponent = static_cast<int>((bits >> 10) & 31u);
  const auto mantissa = static_cast<double>(bits & 1023u);
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024.0 + mantissa, exponent - 25);
}

// The bf16 number nearest to a finite `value`, ties to even, by scaling and rint.
float nearest_bf16(double value) {
  if (value == 0) return static_cast<float>(value);
  const int exponent = std::max(std::ilogb(value), -126);  // -126: the spacing of the subnormals
  const double spacing = std::ldexp(1.0, exponent - 7);
  return static_cast<float>(std::nearbyint(value / spacing) * spacing);
}

TEST(DType, NamesAndSizesRoundTrip) {
  EXPECT_EQ(dtype_from_name("BF16"), DType::kBF16);
  EXPECT_EQ(dtype_name(DType::kF8E4M3), "F8_E4M3");
  EXPECT_EQ(dtype_size(DType::kC64), 8);
  EXPECT_EQ(dtype_from_name("bf16"), std::nullopt);
  EXPECT_EQ(dtype_from_name("F4"), std::nullopt);
  for (int i = 0; i <= static_cast<int>(DType::kF64); ++i)
    EXPECT_EQ(dtype_from_name(dtype_name(static_cast<DType>(i))), static_cast<DType>(i));
}

TEST(DType, EveryF16BecomesItsValue) {
  std::vector<uint16_t> all(1 << 16);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  const std::vector<float> converted = to_fp32(DType::kF16, all);
  for (unsigned i = 0; i < all.size(); ++i) {
    if (((i >> 10) & 31u) != 31u) {
      ASSERT_EQ(converted[i], static_cast<float>(value_of_f16(i))) << i;
      ASSERT_EQ(std::signbit(converted[i]), (i & 0x8000u) != 0) << i;
    } else if ((i & 1023u) == 0) {
      ASSERT_EQ(std::fabs(converted[i]), std::numeric_limits<float>::infinity()) << i;
    } else {
      ASSERT_TRUE(std::isnan(converted[i])) << i;
    }
  }
}

TEST(DType, EveryBF16SurvivesARoundTrip) {
  for (unsigned i = 0; i < (1u << 16); ++i) {
    const auto bits = static_cast<uint16_t>(i);
    const float value = float_from_bf16(bits);
    if (std::isnan(value))
      ASSERT_TRUE(std::isnan(float_from_bf16(bf16_from_float(value)))) << i;
    else
      ASSERT_EQ(bf16_from_float(value), bits) << i;
  }
}

TEST(DType, F32ToBF16RoundsToNearestEven) {
  // Every upper half that is finite and stays so, with lower halves around the tie.
  for (uint32_t upper = 0; upper < 0x7f7fu; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const auto value = std::bit_cast<float>((upper << 16) | lower);
      ASSERT_EQ(float_from_bf16(bf16_from_float(value)), nearest_bf16(value))
          << upper << " " << lower;
      ASSERT_EQ(float_from_bf16(bf16_from_float(-value)), -nearest_bf16(value));
    }
  }
}

TEST(DType, SpecialValues) {
  const float infinity = std::numeric_limits<float>::infinity();
  const auto late_nan = std::bit_cast<float>(0x7f800001u);  // payload in the half that is dropped
  const auto bf16 = to_bf16<float>(
      DType::kF32, {infinity, -infinity, std::numeric_limits<float>::max(), -0.0f, late_nan});
  EXPECT_EQ(bf16[0], 0x7f80);
  EXPECT_EQ(bf16[1], 0xff80);
  EXPECT_EQ(bf16[2], 0x7f80);  // beyond the largest bf16 by more than half a spacing
  EXPECT_EQ(bf16[3], 0x8000);
  EXPECT_TRUE(std::isnan(float_from_bf16(bf16[4])));
}

TEST(DType, F64RoundsOnceOnly) {
  const double tie = 1.0 + 0x1p-8;  // half-way between two bf16 numbers
  // Through fp32 the last bit of these is lost and the tie goes to even: the wrong neighbour.
  const std::vector<double> values = {
      tie + 0x1p-40, tie - 0x1p-40, tie,       -(tie + 0x1p-40),
      tie + 0x1p-7,  1e300,         -1e300,    0x1p-133,
      0x1.8p-134,    0x1p-134,      0x1p-1074, std::numeric_limits<double>::quiet_NaN()};
  const auto bf16 = to_bf16(DType::kF64, values);
  for (const size_t i : {0, 1, 2, 3, 4, 7, 8, 9, 10})
    EXPECT_EQ(float_from_bf16(bf16[i]), nearest_bf16(values[i])) << i;
  EXPECT_EQ(float_from_bf16(bf16[0]), 1.0f + 0x1p-7f);
  EXPECT_EQ(bf16[5], 0x7f80);
  EXPECT_EQ(bf16[6], 0xff80);
  EXPECT_TRUE(std::isnan(float_from_bf16(bf16[11])));

  const auto fp32 = to_fp32(DType::kF64, values);
  EXPECT_EQ(fp32[0], 1.0f + 0x1p-8f);
  EXPECT_TRUE(std::isinf(fp32[5]));
  EXPECT_TRUE(std::isnan(fp32[11]));
}

TEST(DType, SourceAndDestinationMayBeUnaligned) {
  std::vector<std::byte> source(9), destination(9);
  const double value = 0.5;
  std::memcpy(source.data() + 1, &value, 8);
  convert_elements(DType::kF64, source.data() + 1, 1, TargetType::kFloat32, destination.data() + 1);
  float result = 0;
  std::memcpy(&result, destination.data() + 1, 4);
  EXPECT_EQ(result, 0.5f);
}

TEST(DType, IntegersAreNotConverted) {
  std::vector<std::byte> buffer(8);
  EXPECT_FALSE(is_convertible(DType::kI64));
  EXPECT_THROW(convert_elements(DType::kI64, buffer.data(), 1, TargetType::kFloat32, buffer.data()),
               std::logic_error);
}

}  // namespace
}  // namespace vax::io
