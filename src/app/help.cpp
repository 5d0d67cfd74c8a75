// Three columns: option, default, meaning. The widths come from the rows shown.
#include "app/help.h"

#include <algorithm>
#include <vector>

#include "app/resolve.h"
#include "app/subcommands.h"
#include "base/error.h"

#ifndef VAX_VERSION
#error "VAX_VERSION is defined by src/app/CMakeLists.txt"
#endif

namespace vax::app {
namespace {

struct HelpLine {
  std::string section;
  std::string name;
  std::string initial;
  std::string meaning;
};

std::string padded(std::string text, size_t width) {
  text.resize(std::max(text.size(), width), ' ');
  return text;
}

std::string meaning_of(const OptionRow& row) {
  if (row.rule.choices.empty() || row.is_list) return row.meaning;
  std::string choices = join(row.rule.choices, " | ");
  if (!row.rule.other.empty()) choices += " | " + row.rule.other;
  return cat(row.meaning, " (", choices, ")");
}

std::vector<HelpLine> help_lines(const OptionTable& table, const Subcommand& subcommand) {
  Options defaults;
  defaults.subcommand = subcommand.name;
  fill_defaults(table, defaults);
  std::vector<HelpLine> lines;
  for (const OptionRow& row : table.rows()) {
    if ((row.used_by & subcommand.bit) == 0) continue;
    const std::string value = row.text(defaults);
    lines.push_back(
        {row.section, "--" + row.name(), value.empty() ? row.unset : value, meaning_of(row)});
  }
  return lines;
}

}  // namespace

std::string version_text() { return "vaccine " VAX_VERSION "\n"; }

std::string program_help() {
  std::string text =
      "usage: vaccine SUBCOMMAND [--config FILE]... [--section.key VALUE]...\n"
      "\n"
      "Distributed perturbation-aware alignment of language models.\n"
      "\n";
  for (const Subcommand& subcommand : kSubcommands) {
    text += cat("  ", padded(std::string(subcommand.name), 10), subcommand.summary, "\n");
  }
  text +=
      "\n"
      "`vaccine SUBCOMMAND --help` lists its options, `vaccine --version` prints the version.\n"
      "Exit codes: 0 done, 1 unexpected, 2 configuration or file, 3 rank or collective,\n"
      "75 stopped on request after a checkpoint.\n";
  return text;
}

std::string subcommand_help(const OptionTable& table, std::string_view name) {
  const Subcommand* const subcommand = find_subcommand(name);
  VAX_CHECK(subcommand != nullptr, "subcommand '", name, "'");
  const std::vector<HelpLine> lines = help_lines(table, *subcommand);
  size_t name_width = 0;
  size_t initial_width = 0;
  for (const HelpLine& line : lines) {
    name_width = std::max(name_width, line.name.size());
    initial_width = std::max(initial_width, line.initial.size());
  }
  std::string text =
      cat("usage: vaccine ", name, " [--config FILE]... [--section.key VALUE]...\n\n", name, ": ",
          subcommand->summary,
          ".\n"
          "Configuration files have [section] lines and key = value lines; later "
          "files override earlier\nones, the command line overrides all. Columns: "
          "option, default, meaning.\n");
  std::string section;
  for (const HelpLine& line : lines) {
    if (line.section != section) text += cat("\n[", line.section, "]\n");
    section = line.section;
    text += cat("  ", padded(line.name, name_width + 2), padded(line.initial, initial_width + 2),
                line.meaning, "\n");
  }
  return text;
}

}  // namespace vax::app
