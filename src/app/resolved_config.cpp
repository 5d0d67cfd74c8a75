// A walk over the option table; see the header.
#include "app/resolved_config.h"

#include <sstream>
#include <string_view>

#include "app/option_table.h"
#include "app/subcommands.h"
#include "base/error.h"
#include "base/sha256.h"

namespace vax::app {
namespace {

template <typename Visit>
void for_each_used(const Options& options, const Visit& visit) {
  const Subcommand* const subcommand = find_subcommand(options.subcommand);
  VAX_CHECK(subcommand != nullptr, "subcommand '", options.subcommand, "'");
  for (const OptionRow& row : option_rows()) {
    if ((row.used_by & subcommand->bit) != 0) visit(row);
  }
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") + 1 - begin);
}

}  // namespace

std::string to_ini(const Options& options) {
  std::string text = cat("# vaccine ", options.subcommand, "\n");
  std::string section;
  for_each_used(options, [&](const OptionRow& row) {
    if (row.section != section) text += cat("\n[", row.section, "]\n");
    section = row.section;
    const std::string value = row.text(options);
    text += cat(row.key, value.empty() ? " =" : " = ", value, "\n");
  });
  return text;
}

std::map<std::string, std::string> read_ini(const std::string& text) {
  std::map<std::string, std::string> settings;
  std::istringstream lines(text);
  std::string section;
  for (std::string content; std::getline(lines, content);) {
    const std::string_view line = trimmed(content);
    if (line.starts_with('[')) section = line.substr(1, line.find(']') - 1);
    const size_t equals = line.find('=');
    if (line.starts_with('#') || line.starts_with('[') || equals == std::string_view::npos)
      continue;
    settings[cat(section, ".", trimmed(line.substr(0, equals)))] = trimmed(line.substr(equals + 1));
  }
  return settings;
}

std::string config_hash(const Options& options) { return sha256_of_text(to_ini(options)); }

std::vector<OptionJson> to_json_values(const Options& options) {
  std::vector<OptionJson> values;
  for_each_used(options, [&](const OptionRow& row) {
    values.push_back({row.section, row.key, row.json(options)});
  });
  return values;
}

}  // namespace vax::app
