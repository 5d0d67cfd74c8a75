#include "io/json_file.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <vector>

#include "base/error.h"
#include "io/posix_file.h"

namespace vax::io {
namespace {

using nlohmann::json;

// Watches the parser's events. The parser keeps its own nesting on the heap, so depth costs memory,
// not stack, and is refused before it costs much.
template <typename Json>
class StrictRules {
 public:
  StrictRules(const std::string& where, int max_depth, size_t max_members)
      : where_(where), max_depth_(max_depth), max_members_(max_members) {}

  bool operator()(int /*depth*/, typename Json::parse_event_t event, Json& value) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        open();
        break;
      case Json::parse_event_t::object_end:
      case Json::parse_event_t::array_end:
        keys_.pop_back();
        break;
      case Json::parse_event_t::key:
        add_key(value.template get_ref<const std::string&>());
        break;
      case Json::parse_event_t::value:
        break;
    }
    return true;
  }

 private:
  void open() {
    keys_.emplace_back();
    if (static_cast<int>(keys_.size()) > max_depth_)
      throw DataError(cat(where_, ": JSON nested deeper than ", max_depth_, " levels"));
  }

  void add_key(const std::string& key) {
    if (!keys_.back().insert(key).second)
      throw DataError(cat(where_, ": key ", shown(key), " stands twice in one JSON object"));
    if (keys_.back().size() > max_members_)
      throw DataError(cat(where_, ": expected at most ", max_members_, " members in an object"));
  }

  const std::string& where_;
  int max_depth_;
  size_t max_members_;
  std::vector<std::set<std::string>> keys_;  // of every object or array that is open
};

// nullptr where the member is absent or null.
const json* member(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

[[noreturn]] void fail_type(const std::string& where, const char* key, const char* expected,
                            const json& found) {
  throw DataError(cat(where, ": ", key, ": expected ", expected, ", found ", shown(found)));
}

// The library quotes what it read last, a text of any length.
std::string reason_of(const json::exception& error) {
  constexpr size_t kLongest = 300;
  std::string reason = error.what();
  if (reason.size() > kLongest) reason = reason.substr(0, kLongest) + "...";
  return reason;
}

template <typename Json>
Json parse(std::string_view text, const std::string& where, int max_depth, size_t max_members) {
  try {
    return Json::parse(text, StrictRules<Json>(where, max_depth, max_members));
  } catch (const json::parse_error& e) {
    throw DataError(cat(where, ": not valid JSON at byte ", e.byte, ": ", reason_of(e)));
  } catch (const json::exception& e) {  // a number beyond the range of double
    throw DataError(cat(where, ": not valid JSON: ", reason_of(e)));
  }
}

}  // namespace

json parse_json(std::string_view text, const std::string& where, int max_depth) {
  return parse<json>(text, where, max_depth, std::numeric_limits<size_t>::max());
}

nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& where,
                                          int max_depth) {
  return parse<nlohmann::ordered_json>(text, where, max_depth, kMaxOrderedMembers);
}

json read_json(const std::filesystem::path& path) {
  const PosixFile file = PosixFile::open_for_reading(path);
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return parse_json(text, path.string());
}

bool bool_or(const json& object, const char* key, bool fallback, const std::string& where) {
  const json* value = member(object, key);
  if (!value) return fallback;
  if (!value->is_boolean()) fail_type(where, key, "true or false", *value);
  return value->get<bool>();
}

std::string string_or(const json& object, const char* key, std::string fallback,
                      const std::string& where) {
  const json* value = member(object, key);
  if (!value) return fallback;
  if (!value->is_string()) fail_type(where, key, "a string", *value);
  return value->get<std::string>();
}

double number_or(const json& object, const char* key, double fallback, const std::string& where) {
  const json* value = member(object, key);
  if (!value) return fallback;
  if (!value->is_number()) fail_type(where, key, "a number", *value);
  return value->get<double>();
}

int64_t integer_or(const json& object, const char* key, int64_t fallback,
                   const std::string& where) {
  const json* value = member(object, key);
  if (!value) return fallback;
  const bool too_large =
      value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (!value->is_number_integer() || too_large) fail_type(where, key, "an integer", *value);
  return value->get<int64_t>();
}

std::string shown(const json& value) {
  constexpr size_t kLongest = 120;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

}  // namespace vax::io
