// Merging of the sources, least important first, so that the last assignment wins.
#include "app/command_line.h"

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <system_error>

#include "app/did_you_mean.h"
#include "app/setting_sources.h"
#include "app/subcommands.h"
#include "base/atomic_file.h"
#include "base/error.h"

namespace vax::app {
namespace {

constexpr SubcommandSet kEverySubcommand = ~SubcommandSet{0};

const Subcommand& require_subcommand(const std::string& name) {
  if (const Subcommand* const subcommand = find_subcommand(name)) return *subcommand;
  std::vector<std::string> names;
  for (const Subcommand& subcommand : kSubcommands) names.emplace_back(subcommand.name);
  throw ConfigError(cat("expected a subcommand (", join(names, ", "), "), found '", name, "'",
                        did_you_mean(name, names)));
}

// The words of a setting as the one text that its row reads.
std::string joined_value(const OptionRow& row, const Setting& setting) {
  const std::vector<std::string>& values = setting.values;
  if (values.empty() && row.kind == ValueKind::kBoolean) return "true";
  if (values.empty()) {
    throw ConfigError(
        cat(row.name(), ": expected ", row.expected(), ", found no value (", setting.where, ")"));
  }
  if (values.size() > 1 && !row.is_list) {
    throw ConfigError(cat("unexpected argument '", values[1], "' after --", row.name(), " ",
                          values[0], "; the option takes one value"));
  }
  return join(values, ",");
}

// A pipe is a file too: --config <(command).
void refuse_unless_file(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_type type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::directory) {
    throw ConfigError(cat("--config ", path, ": expected a file, found a directory"));
  }
  if (type == std::filesystem::file_type::not_found) {
    throw ConfigError(cat("--config ", path, ": expected a file, found nothing there"));
  }
}

class Merger {
 public:
  Merger(CommandLine& result, const Subcommand& subcommand)
      : table_(*result.table), result_(result), subcommand_(subcommand) {}

  void take_file(const std::string& path) {
    refuse_unless_file(path);
    std::istringstream text(read_file(path));
    for (const Setting& setting : read_ini(text, path, table_.section_names())) {
      if (was_option_once(setting.name)) continue;
      const OptionRow* const row = table_.find(setting.name);
      if (row == nullptr) {
        throw ConfigError(cat(setting.where, ": unknown option ", setting.name,
                              did_you_mean(setting.name, table_.names(subcommand_.bit))));
      }
      if ((row->used_by & subcommand_.bit) != 0) {
        assign(*row, setting, result_.options);
        remember(*row, setting);
      } else {
        Options ignored;
        assign(*row, setting, ignored);
      }
    }
    ++precedence_;
  }

  void take_command_line(const std::vector<Setting>& settings) {
    for (const Setting& setting : settings) {
      if (setting.name == "config") continue;
      const OptionRow& row = table_.at(setting.name);
      if ((row.used_by & subcommand_.bit) == 0) {
        throw ConfigError(cat("option --", setting.name, " is not used by `vaccine ",
                              subcommand_.name, "`; `vaccine ", subcommand_.name,
                              " --help` lists those that are"));
      }
      assign(row, setting, result_.options);
      remember(row, setting);
    }
  }

 private:
  static void assign(const OptionRow& row, const Setting& setting, Options& options) {
    const std::string text = joined_value(row, setting);
    if (row.assign(options, text)) return;
    throw ConfigError(cat(row.name(), ": expected ", row.expected(), ", found '", text, "' (",
                          setting.where, ")"));
  }

  void remember(const OptionRow& row, const Setting& setting) {
    if (row.text(result_.options).empty()) {
      result_.origins.erase(row.name());
    } else {
      result_.origins.insert_or_assign(row.name(), Origin{setting.where, precedence_});
    }
  }

  const OptionTable& table_;
  CommandLine& result_;
  const Subcommand& subcommand_;
  int precedence_ = 0;
};

std::vector<std::string> config_files(const std::vector<Setting>& settings) {
  std::vector<std::string> files;
  for (const Setting& setting : settings) {
    if (setting.name != "config") continue;
    if (setting.values.size() != 1) {
      throw ConfigError(cat("--config: expected one file (repeat --config for more), found ",
                            setting.values.size(), " values"));
    }
    files.push_back(setting.values[0]);
  }
  return files;
}

bool asks_for_help(const std::vector<std::string>& arguments) {
  return std::ranges::any_of(
      arguments, [](const std::string& word) { return word == "--help" || word == "-h"; });
}

// `plan --schedule`, `plan --schedule=false`.
void spell_out_schedule(std::vector<std::string>& words) {
  constexpr std::string_view kShort = "--schedule";
  for (std::string& word : words)
    if (word == kShort || word.starts_with(cat(kShort, "=")))
      word.replace(0, kShort.size(), "--plan.schedule");
}

}  // namespace

std::string CommandLine::where(std::string_view name) const {
  const auto found = origins.find(name);
  return found == origins.end() ? "default" : found->second.where;
}

CommandLine parse(const OptionTable& table, const std::vector<std::string>& arguments) {
  CommandLine result;
  result.table = &table;
  if (arguments.empty()) {
    throw ConfigError("expected a subcommand, found nothing; `vaccine --help` lists them");
  }
  const bool help = asks_for_help(arguments);
  if (arguments[0].starts_with('-')) {
    if (!help && arguments[0] != "--version") {
      throw ConfigError(cat("expected a subcommand before the options, found '", arguments[0],
                            "'; `vaccine --help` lists them"));
    }
    result.request = help ? CommandLine::Request::kHelp : CommandLine::Request::kVersion;
    return result;
  }
  const Subcommand& subcommand = require_subcommand(arguments[0]);
  result.options.subcommand = subcommand.name;
  if (help) {
    result.request = CommandLine::Request::kHelp;
    return result;
  }
  std::vector<std::string> suggested = table.names(subcommand.bit);
  suggested.emplace_back("config");
  std::vector<std::string> words(arguments.begin() + 1, arguments.end());
  if (subcommand.bit == kPlan) spell_out_schedule(words);
  const std::vector<Setting> settings =
      read_command_line(words, table.names(kEverySubcommand), suggested);
  Merger merger(result, subcommand);
  for (const std::string& file : config_files(settings)) merger.take_file(file);
  merger.take_command_line(settings);
  return result;
}

CommandLine parse(const OptionTable& table, int argc, const char* const* argv) {
  return parse(table, std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
}

}  // namespace vax::app
