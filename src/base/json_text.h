// JSON that the program writes, put together from values:
//   JsonText({{"event", "step"}, {"loss", 0.5}, {"norms", std::vector<double>{1, 2}}}).text()
// Members keep their order. Doubles are written so that reading gives back the same bits; a number
// that is not finite is null. Bytes that are not UTF-8 (a path may have some) are replaced, so that
// writing never fails.
#pragma once

#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace vax {

class JsonText {
 public:
  using Member = std::pair<std::string_view, JsonText>;

  JsonText(std::nullptr_t = nullptr) : text_("null") {}
  JsonText(bool value) : text_(value ? "true" : "false") {}
  template <std::integral T>
  JsonText(T value) : text_(std::to_string(value)) {}
  JsonText(double value);
  JsonText(std::string_view value);
  JsonText(const std::string& value) : JsonText(std::string_view(value)) {}
  JsonText(const char* value) : JsonText(std::string_view(value)) {}
  JsonText(const Json& value) : text_(value.dump()) {}
  template <typename T>
  JsonText(const std::optional<T>& value) : JsonText(value ? JsonText(*value) : JsonText()) {}
  template <typename T>
  JsonText(const std::vector<T>& items) : JsonText(array()) {
    for (const T& item : items) add(item);
  }
  template <typename T>
  JsonText(const std::map<std::string, T>& members) : JsonText(object()) {
    for (const auto& [key, value] : members) add(key, value);
  }
  JsonText(std::initializer_list<Member> members) : JsonText(object()) {
    for (const auto& [key, value] : members) add(key, value);
  }
  static JsonText object() { return JsonText(Raw{"{}"}); }
  static JsonText array() { return JsonText(Raw{"[]"}); }

  // REQUIRES an object, a new key.
  void add(std::string_view key, const JsonText& value);
  // REQUIRES an array.
  void add(const JsonText& item);

  const std::string& text() const { return text_; }  // on one line
  std::string indented() const;                      // by two spaces, with a line end

 private:
  struct Raw {
    const char* text;
  };
  explicit JsonText(Raw raw) : text_(raw.text) {}
  void append(const std::string& part);

  std::string text_;
};

}  // namespace vax
