// Values of options as text; see the header. std::from_chars and std::to_chars do the numbers, so
// the locale has no say and a written number reads back exactly.
#include "base/option_value.h"

#include <array>
#include <charconv>
#include <cmath>
#include <system_error>
#include <utility>

namespace vax {
namespace {

constexpr std::string_view kSeparators = ", \t";  // of a list's items

bool in_range(double value, const Rule& rule) {
  const bool low_ok = rule.low_excluded ? value > rule.low : value >= rule.low;
  const bool high_ok = rule.high_excluded ? value < rule.high : value <= rule.high;
  return low_ok && high_ok;
}

// from_chars over the whole text; no sign '+', no spaces, nothing left over.
template <typename T>
std::optional<T> whole_number(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || stop != end) return std::nullopt;
  return value;
}

template <typename T>
bool read_integer(std::string_view text, const Rule& rule, T& value) {
  const std::optional<T> number = whole_number<T>(text);
  if (!number || !in_range(static_cast<double>(*number), rule)) return false;
  if (rule.even && *number % 2 != 0) return false;
  value = *number;
  return true;
}

template <typename T>
std::string number_text(T value) {
  std::array<char, 64> buffer;
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  VAX_CHECK(error == std::errc{});
  return {buffer.data(), end};
}

bool survives_configuration_line(std::string_view text) {
  if (text.empty() || text.front() == ' ' || text.back() == ' ') return false;
  return std::ranges::none_of(text, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return c == '#' || byte < 0x20 || byte == 0x7f;
  });
}

std::string range_text(const Rule& rule) {
  const bool has_low = std::isfinite(rule.low);
  const bool has_high = std::isfinite(rule.high);
  if (has_low && has_high) {
    return cat(" in ", rule.low_excluded ? "(" : "[", number_text(rule.low), ", ",
               number_text(rule.high), rule.high_excluded ? ")" : "]");
  }
  if (!has_low) return "";
  return cat(rule.low_excluded ? " above " : " of at least ", number_text(rule.low));
}

std::string scalar_text(ValueKind kind, const Rule& rule) {
  switch (kind) {
    case ValueKind::kInteger:
      return cat(rule.even ? "an even integer" : "an integer", range_text(rule));
    case ValueKind::kUnsigned:
      return "an integer from 0 to 2^64 - 1";
    case ValueKind::kNumber:
      return cat("a finite number", range_text(rule));
    case ValueKind::kBoolean:
      return "true or false";
    case ValueKind::kText:
      break;
  }
  if (!rule.choices.empty()) {
    return cat("one of ", join(rule.choices, ", "), rule.other.empty() ? "" : " or ", rule.other);
  }
  return "a text without '#', control characters and spaces at its ends";
}

}  // namespace

Rule at_least(double low) { return {.low = low}; }
Rule above(double low) { return {.low = low, .low_excluded = true}; }
Rule between(double low, double high) { return {.low = low, .high = high}; }
Rule from_up_to(double low, double excluded) {
  return {.low = low, .high = excluded, .high_excluded = true};
}
Rule one_of(std::vector<std::string> choices) { return {.choices = std::move(choices)}; }
Rule one_of_or(std::vector<std::string> choices, std::string other) {
  return {.choices = std::move(choices), .other = std::move(other)};
}
Rule even(Rule rule) {
  rule.even = true;
  return rule;
}
Rule distinct(Rule rule) {
  rule.distinct = true;
  return rule;
}

std::string expected_text(ValueKind kind, bool is_list, const Rule& rule) {
  const std::string item = scalar_text(kind, rule);
  if (!is_list) return item;
  return cat("a list (commas or spaces between) whose items are each ", item,
             rule.distinct ? ", none twice" : "");
}

bool read_value(std::string_view text, const Rule& rule, std::string& value) {
  if (!survives_configuration_line(text)) return false;
  const bool listed = std::ranges::find(rule.choices, text) != rule.choices.end();
  if (!rule.choices.empty() && !listed && rule.other.empty()) return false;
  value = text;
  return true;
}

bool read_value(std::string_view text, const Rule& rule, int64_t& value) {
  return read_integer(text, rule, value);
}

bool read_value(std::string_view text, const Rule& rule, uint64_t& value) {
  return read_integer(text, rule, value);
}

bool read_value(std::string_view text, const Rule& rule, double& value) {
  const std::optional<double> number = whole_number<double>(text);
  if (!number || !std::isfinite(*number) || !in_range(*number, rule)) return false;
  value = *number;
  return true;
}

bool read_value(std::string_view text, const Rule&, bool& value) {
  if (text != "true" && text != "false") return false;
  value = text == "true";
  return true;
}

std::string value_text(const std::string& value) { return value; }
std::string value_text(int64_t value) { return number_text(value); }
std::string value_text(uint64_t value) { return number_text(value); }
std::string value_text(double value) { return number_text(value); }
std::string value_text(bool value) { return value ? "true" : "false"; }

std::string join(std::span<const std::string> words, std::string_view separator) {
  std::string text;
  for (const std::string& word : words) {
    if (&word != &words.front()) text += separator;
    text += word;
  }
  return text;
}

std::optional<std::vector<std::string>> split_list(std::string_view text) {
  std::vector<std::string> items;
  size_t at = text.find_first_not_of(kSeparators);
  while (at != std::string_view::npos) {
    if (text[at] == '"') {
      std::string& item = items.emplace_back();
      for (++at; at < text.size() && text[at] != '"'; ++at) {
        if (text[at] == '\\' && ++at == text.size()) return std::nullopt;
        item += text[at];
      }
      if (at++ >= text.size()) return std::nullopt;
      if (at < text.size() && kSeparators.find(text[at]) == std::string_view::npos)
        return std::nullopt;
    } else {
      const size_t end = std::min(text.find_first_of(kSeparators, at), text.size());
      items.emplace_back(text.substr(at, end - at));
      at = end;
    }
    at = text.find_first_not_of(kSeparators, at);
  }
  return items;
}

std::string join_list(std::span<const std::string> items) {
  std::vector<std::string> written(items.begin(), items.end());
  for (std::string& item : written) {
    if (!item.starts_with('"') && item.find_first_of(kSeparators) == std::string::npos) continue;
    std::string quoted;
    for (const char c : item) quoted.append(c == '"' || c == '\\' ? "\\" : "").push_back(c);
    item = cat('"', quoted, '"');
  }
  return join(written, ",");
}

}  // namespace vax
