// Values of options that are one word out of a few: an enumeration with its words beside it,
//
//   enum class Direction { kToken, kShared };
//   constexpr auto words_of(Direction) {
//     return std::to_array<std::string_view>({"token", "shared"});
//   }
//
// in the order of the enumerators, which count from 0. The words are found by the enumeration's
// namespace. An empty word is the value of an option that was not given.
#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <type_traits>

namespace vax {

template <typename T>
concept Choice = std::is_enum_v<T> && requires(T value) {
  words_of(value);
};

template <Choice T>
constexpr std::string_view word_of(T value) {
  return words_of(value).at(static_cast<size_t>(value));
}

template <Choice T>
constexpr std::optional<T> choice_of(std::string_view word) {
  constexpr auto kWords = words_of(T{});
  for (size_t i = 0; i < kWords.size(); ++i)
    if (kWords[i] == word) return static_cast<T>(i);
  return std::nullopt;
}

}  // namespace vax
