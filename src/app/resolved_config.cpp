// A walk over the option table; see the header.
#include "app/resolved_config.h"

#include "app/subcommands.h"
#include "base/error.h"
#include "base/json_text.h"
#include "base/sha256.h"

namespace vax::app {
namespace {

template <typename Visit>
void for_each_used(const OptionTable& table, const Options& options, const Visit& visit) {
  const SubcommandSet user = bit_of(options.subcommand);
  for (const OptionRow& row : table.rows())
    if ((row.used_by & user) != 0) visit(row);
}

std::string scalar_json(ValueKind kind, const std::string& word) {
  return kind == ValueKind::kText ? JsonText(word).text() : word;
}

std::string json_of(const OptionRow& row, const Options& options) {
  std::vector<std::string> words = row.words(options);
  for (std::string& word : words) word = scalar_json(row.kind, word);
  if (row.is_list) return cat("[", join(words, ","), "]");
  return words.empty() ? "null" : words[0];
}

}  // namespace

std::string to_ini(const OptionTable& table, const Options& options) {
  std::string text = cat("# vaccine ", options.subcommand, "\n");
  std::string section;
  for_each_used(table, options, [&](const OptionRow& row) {
    if (row.section != section) text += cat("\n[", row.section, "]\n");
    section = row.section;
    const std::string value = row.text(options);
    text += cat(row.key, value.empty() ? " =" : " = ", value, "\n");
  });
  return text;
}

std::string config_hash(const OptionTable& table, const Options& options) {
  return sha256_of_text(to_ini(table, options));
}

std::vector<OptionJson> to_json_values(const OptionTable& table, const Options& options) {
  std::vector<OptionJson> values;
  for_each_used(table, options, [&](const OptionRow& row) {
    values.push_back({row.section, row.key, json_of(row, options)});
  });
  return values;
}

}  // namespace vax::app
