// JSON that others wrote: configurations, headers and logs. A value knows where it stands, so that
// a message has the place, what was expected and what was found:
//   const Json config = Json::read("model/config.json");
//   config["vocab_size"].integer_in(1, 1 << 30);
//   -> model/config.json: vocab_size: expected an integer from 1 to 1073741824, found "many"
// Files are hostile until they are read: base/json_events.h says what is refused.
//
// Every function but the tests of kind THROWS DataError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vax {

struct JsonLimits {
  int max_depth = 64;
  size_t max_members = std::numeric_limits<size_t>::max();  // of one object
};

inline constexpr uintmax_t kMaxJsonFileBytes = uintmax_t{1} << 30;

// A value of a JSON text. Values share the text's tree; copies are cheap, they may be used by
// several threads.
class Json {
 public:
  // `where` opens every message: a path, or a path and the part of the file.
  static Json parse(std::string_view text, std::string where, const JsonLimits& limits = {});
  static Json read(const std::filesystem::path& path);

  const std::string& where() const { return where_; }
  // The same value under another name.
  Json named(std::string where) const { return {tree_, value_, std::move(where)}; }

  bool exists() const { return value_ != nullptr; }  // false: a member that is not there
  bool is_null() const;                              // or not there
  bool is_object() const;
  bool is_array() const;
  bool is_text() const;
  bool is_number() const;
  bool is_natural() const;  // an integer from 0 to 2^63 - 1
  bool is_boolean() const;
  bool is(std::string_view text) const;

  bool boolean() const;
  int64_t integer() const;
  int64_t integer_in(int64_t low, int64_t high) const;
  uint64_t natural() const;
  double number() const;
  std::string text() const;
  // The same where null, or nothing, stands for `fallback`.
  bool boolean_or(bool fallback) const { return is_null() ? fallback : boolean(); }
  int64_t integer_or(int64_t fallback) const { return is_null() ? fallback : integer(); }
  double number_or(double fallback) const { return is_null() ? fallback : number(); }
  std::string text_or(std::string fallback) const { return is_null() ? fallback : text(); }

  // Of an object: a member, which need not exist; it is called `where: key`.
  Json operator[](std::string_view key) const;
  // The same, which must exist.
  Json required(std::string_view key) const;
  // In the order of the text.
  std::vector<std::pair<std::string, Json>> members() const;
  // Of an array; an item is called `where[i]`.
  std::vector<Json> items() const;
  size_t size() const;  // of an object or array; 0 of anything else

  // THROWS DataError(where: expected ..., found ...).
  [[noreturn]] void fail(std::string_view expected) const;
  // The value for a message: compact text, shortened where long; "nothing" where it does not exist.
  std::string shown() const;
  // A copy in which the member `key` is the text `value`.
  Json with_text(std::string_view key, std::string_view value) const;
  // As text again, members in their order; `indent` < 0: on one line.
  std::string dump(int indent = -1) const;

 private:
  using Tree = nlohmann::ordered_json;

  Json(std::shared_ptr<const Tree> tree, const Tree* value, std::string where)
      : tree_(std::move(tree)), value_(value), where_(std::move(where)) {}
  const Tree& object() const;
  void expect(bool is_so, std::string_view expected) const {
    if (!is_so) fail(expected);
  }

  std::shared_ptr<const Tree> tree_;  // the whole text's
  const Tree* value_;                 // of it; nullptr: does not exist
  std::string where_;
};

// A text of a file for a message: quoted, control characters as escapes, shortened where long.
std::string json_quoted(std::string_view text);

}  // namespace vax
