// Strict JSON for configuration files and file headers. Stricter than the library's parser where
// files from elsewhere could mislead: a repeated key is an error (readers disagree which one
// counts), nesting is limited (a depth bomb must not exhaust memory), text must be valid UTF-8.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace vax::io {

inline constexpr int kMaxJsonDepth = 64;

// `where` opens every message (a path, or a path and the part of the file).
// THROWS DataError: syntax with the byte position, repeated key with its name, depth with the
// limit.
nlohmann::json parse_json(std::string_view text, const std::string& where,
                          int max_depth = kMaxJsonDepth);

// The same with the members in the order of the text. Looking up a member takes time in proportion
// to their number, so an object with more than kMaxOrderedMembers is refused too.
inline constexpr size_t kMaxOrderedMembers = 1024;
nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& where,
                                          int max_depth = kMaxJsonDepth);

// The whole file. THROWS DataError as above, and when it cannot be read.
nlohmann::json read_json(const std::filesystem::path& path);

// Members of an object with the type stated in the name. An absent or null member gives `fallback`.
// THROWS DataError naming `where`, the key, the type expected and the value found.
bool bool_or(const nlohmann::json& object, const char* key, bool fallback,
             const std::string& where);
std::string string_or(const nlohmann::json& object, const char* key, std::string fallback,
                      const std::string& where);
double number_or(const nlohmann::json& object, const char* key, double fallback,
                 const std::string& where);
int64_t integer_or(const nlohmann::json& object, const char* key, int64_t fallback,
                   const std::string& where);

// A value for a message: compact text, shortened where long.
std::string shown(const nlohmann::json& value);

}  // namespace vax::io
