// A walk over the option table; see the header.
#include "app/resolved_config.h"

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

std::string config_hash(const Options& options) { return sha256_of_text(to_ini(options)); }

std::vector<OptionJson> to_json_values(const Options& options) {
  std::vector<OptionJson> values;
  for_each_used(options, [&](const OptionRow& row) {
    values.push_back({row.section, row.key, row.json(options)});
  });
  return values;
}

}  // namespace vax::app
