#include "data/tokenizer_config.h"

#include <charconv>
#include <system_error>

#include "base/error.h"
#include "base/json.h"

namespace vax::data {
namespace {

int64_t parse_id(const std::string& key, const std::string& where) {
  int64_t id = -1;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
  if (error != std::errc() || end != key.data() + key.size() || id < 0)
    throw DataError(cat(where, ": expected ids as keys, found '", key, "'"));
  return id;
}

void read_added_tokens(const Json& entries, TokenizerConfig& config) {
  for (const auto& [key, entry] : entries.members()) {
    const int64_t id = parse_id(key, entries.where());
    const Json named = entry.named(cat(entries.where(), "[", key, "]"));
    const bool well_formed = entry.is_object() && entry["content"].is_text() &&
                             (!entry["special"].exists() || entry["special"].is_boolean());
    if (!well_formed) named.fail("{\"content\": string, \"special\": bool}");
    const std::string text = entry["content"].text();
    if (text.empty()) throw DataError(cat(named.where(), ": content is empty"));
    if (entry["special"].boolean_or(false)) config.special.push_back({.text = text, .id = id});
  }
}

}  // namespace

TokenizerConfig read_tokenizer_config(const std::filesystem::path& path) {
  TokenizerConfig config;
  std::error_code ignored;  // of a file that cannot be looked at: then read_file() says why
  if (!std::filesystem::exists(path, ignored) && !ignored) return config;
  const Json root = Json::read(path);
  if (!root.is_object()) root.fail("a JSON object");
  config.add_bos = root["add_bos_token"].boolean_or(config.add_bos);
  if (const Json added = root["added_tokens_decoder"]; added.exists())
    read_added_tokens(added, config);
  return config;
}

}  // namespace vax::data
