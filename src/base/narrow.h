// Checked integer conversions. THROWS std::logic_error when the value does not fit.
#pragma once

#include <concepts>
#include <utility>

#include "base/error.h"

namespace vax {

template <std::integral To, std::integral From>
constexpr To narrow(From value) {
  VAX_CHECK(std::in_range<To>(value), "value ", value, " does not fit the target type");
  return static_cast<To>(value);
}

// ceil(numerator / denominator) of non-negative numbers.
template <std::integral T>
constexpr T ceil_div(T numerator, T denominator) {
  return static_cast<T>((numerator + denominator - 1) / denominator);
}

template <std::integral T>
constexpr T round_up(T value, T multiple) {
  return static_cast<T>(ceil_div(value, multiple) * multiple);
}

}  // namespace vax
