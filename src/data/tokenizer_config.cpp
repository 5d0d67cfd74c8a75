#include "data/tokenizer_config.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/atomic_file.h"
#include "base/error.h"

namespace vax::data {
namespace {

using nlohmann::json;

int64_t parse_id(const std::string& key, const std::string& where) {
  int64_t id = -1;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
  if (error != std::errc() || end != key.data() + key.size() || id < 0)
    throw DataError(cat(where, ": expected ids as keys, found '", key, "'"));
  return id;
}

void read_added_tokens(const json& entries, const std::string& where, TokenizerConfig& config) {
  if (!entries.is_object())
    throw DataError(cat(where, ": expected an object, found a JSON ", entries.type_name()));
  for (const auto& [key, entry] : entries.items()) {
    const int64_t id = parse_id(key, where);
    const bool well_formed = entry.is_object() && entry.contains("content") &&
                             entry["content"].is_string() &&
                             (!entry.contains("special") || entry["special"].is_boolean());
    if (!well_formed)
      throw DataError(cat(where, "[", key, "]: expected {\"content\": string, \"special\": bool}"));
    const auto text = entry["content"].get<std::string>();
    if (text.empty()) throw DataError(cat(where, "[", key, "]: content is empty"));
    if (entry.value("special", false)) config.special.push_back({.text = text, .id = id});
  }
}

}  // namespace

TokenizerConfig read_tokenizer_config(const std::filesystem::path& path) {
  TokenizerConfig config;
  std::error_code ignored;  // of a file that cannot be looked at: then read_file() says why
  if (!std::filesystem::exists(path, ignored) && !ignored) return config;
  json root;
  try {
    root = json::parse(read_file(path));
  } catch (const json::exception& e) {
    throw DataError(cat(path.string(), ": not valid JSON: ", e.what()));
  }
  if (!root.is_object())
    throw DataError(
        cat(path.string(), ": expected a JSON object, found a JSON ", root.type_name()));
  const auto add_bos = root.find("add_bos_token");
  if (add_bos != root.end() && !add_bos->is_null()) {
    if (!add_bos->is_boolean())
      throw DataError(cat(path.string(), ": add_bos_token: expected true or false, found a JSON ",
                          add_bos->type_name()));
    config.add_bos = add_bos->get<bool>();
  }
  const auto added = root.find("added_tokens_decoder");
  if (added != root.end())
    read_added_tokens(*added, cat(path.string(), ": added_tokens_decoder"), config);
  return config;
}

}  // namespace vax::data
