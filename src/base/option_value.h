// Single values of options: reading them from text, checking them, writing them. What is written
// reads back to the same value exactly (numbers in their shortest exact form), which the resolved
// configuration relies on.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/choice.h"
#include "base/error.h"

namespace vax {

enum class ValueKind { kText, kInteger, kUnsigned, kNumber, kBoolean };

// The values that an option accepts beyond its type. A list's items obey it one by one.
struct Rule {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_excluded = false;
  bool high_excluded = false;
  bool even = false;
  bool distinct = false;                  // a list without repetitions
  std::vector<std::string> choices = {};  // empty: any text
  std::string other = {};  // not empty: texts outside choices are legal and mean this
};

Rule at_least(double low);
Rule above(double low);
Rule between(double low, double high);         // [low, high]
Rule from_up_to(double low, double excluded);  // [low, excluded)
Rule one_of(std::vector<std::string> choices);
Rule one_of_or(std::vector<std::string> choices, std::string other);
Rule even(Rule rule);
Rule distinct(Rule rule = {});

// "an integer, at least 1", "one of sft, vaccine": completes "expected ".
std::string expected_text(ValueKind kind, bool is_list, const Rule& rule);

// False when `text` is not a value of the type or the rule forbids it; `value` is then untouched.
// Texts must survive a line of a configuration file: no '#', control character or outer space.
bool read_value(std::string_view text, const Rule& rule, std::string& value);
bool read_value(std::string_view text, const Rule& rule, int64_t& value);
bool read_value(std::string_view text, const Rule& rule, uint64_t& value);
bool read_value(std::string_view text, const Rule& rule, double& value);
bool read_value(std::string_view text, const Rule& rule, bool& value);
template <Choice T>
bool read_value(std::string_view text, const Rule&, T& value) {
  const std::optional<T> choice = choice_of<T>(text);
  if (!choice || text.empty()) return false;
  value = *choice;
  return true;
}

std::string value_text(const std::string& value);
std::string value_text(int64_t value);
std::string value_text(uint64_t value);
std::string value_text(double value);
std::string value_text(bool value);
template <Choice T>
std::string value_text(T value) {
  return std::string(word_of(value));
}

std::string join(std::span<const std::string> words, std::string_view separator);

// Items between commas, spaces and tabs. One that begins with '"' ends at the next '"' and may hold
// these, '\"' and '\\' in it standing for '"' and '\'. Nothing when a quoted item does not end, or
// not before one of them.
std::optional<std::vector<std::string>> split_list(std::string_view text);
// split_list() of it gives the items; those that need no quotes have none. REQUIRES items that are
// not empty.
std::string join_list(std::span<const std::string> items);

// How a member's type maps to kinds: optionals and lists have the kind of what they hold.
template <typename T>
struct ValueTraits {
  using Item = T;
  static constexpr bool is_list = false;
  static constexpr bool is_optional = false;
};
template <typename T>
struct ValueTraits<std::optional<T>> {
  using Item = T;
  static constexpr bool is_list = false;
  static constexpr bool is_optional = true;
};
template <typename T>
struct ValueTraits<std::vector<T>> {
  using Item = T;
  static constexpr bool is_list = true;
  static constexpr bool is_optional = false;
};

template <Choice T>
std::vector<std::string> words_without_empty() {
  std::vector<std::string> words;
  for (const std::string_view word : words_of(T{}))
    if (!word.empty()) words.emplace_back(word);
  return words;
}

template <typename T>
constexpr ValueKind value_kind() {
  using Item = typename ValueTraits<T>::Item;
  if constexpr (std::same_as<Item, std::string> || Choice<Item>) return ValueKind::kText;
  if constexpr (std::same_as<Item, bool>) return ValueKind::kBoolean;
  if constexpr (std::same_as<Item, double>) return ValueKind::kNumber;
  if constexpr (std::same_as<Item, uint64_t>) return ValueKind::kUnsigned;
  if constexpr (std::same_as<Item, int64_t>) return ValueKind::kInteger;
}

// Whether a member holds nothing: the state that the empty text stands for.
template <typename T>
bool is_unset(const T& value) {
  if constexpr (ValueTraits<T>::is_optional)
    return !value.has_value();
  else if constexpr (requires { value.empty(); })
    return value.empty();
  else if constexpr (Choice<T>)
    return word_of(value).empty();
  else
    return false;
}

template <typename T>
bool read_value(std::string_view text, const Rule& rule, std::optional<T>& value) {
  T item{};
  if (!read_value(text, rule, item)) return false;
  value = item;
  return true;
}

template <typename T>
bool read_value(std::string_view text, const Rule& rule, std::vector<T>& value) {
  const std::optional<std::vector<std::string>> words = split_list(text);
  if (!words) return false;
  std::vector<T> items;
  for (const std::string& word : *words) {
    T item{};
    if (!read_value(word, rule, item)) return false;
    if (rule.distinct && std::ranges::find(items, item) != items.end()) return false;
    items.push_back(std::move(item));
  }
  value = std::move(items);
  return true;
}

// A value as words: an item each of a list, else one, or none of an empty optional.
template <typename T>
std::vector<std::string> value_words(const T& value) {
  return {value_text(value)};
}

template <typename T>
std::vector<std::string> value_words(const std::optional<T>& value) {
  return value ? value_words(*value) : std::vector<std::string>{};
}

template <typename T>
std::vector<std::string> value_words(const std::vector<T>& values) {
  std::vector<std::string> words;
  for (const T& value : values) words.push_back(value_text(value));
  return words;
}

}  // namespace vax
