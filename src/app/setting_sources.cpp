// The only file that includes Boost.Program_options. Boost splits both sources into names and
// values but tells neither the line of a setting nor a repeated key, so the lines are listed first,
// by Boost's own rule (cut at '#', trim, skip empty lines), and its settings come in that order.
#include "app/setting_sources.h"

#include <algorithm>
#include <boost/program_options.hpp>
#include <cstdint>
#include <map>
#include <sstream>
#include <string_view>

#include "app/did_you_mean.h"
#include "base/error.h"

namespace vax::app {
namespace {

namespace po = boost::program_options;

// Every option takes any number of words, none included: how many are right depends on its type,
// and app/command_line.cpp can say so better than Boost.
po::options_description describe(const std::vector<std::string>& names) {
  po::options_description description;
  for (const std::string& name : names) {
    description.add_options()(name.c_str(),
                              po::value<std::vector<std::string>>()->multitoken()->zero_tokens());
  }
  return description;
}

std::string_view trim(std::string_view line) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = line.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return line.substr(begin, line.find_last_not_of(kSpace) - begin + 1);
}

void check_section(std::string_view section, const std::string& where,
                   std::span<const std::string> sections) {
  const bool any = sections.empty() && !section.empty();
  if (any || std::ranges::find(sections, section) != sections.end()) return;
  throw ConfigError(
      cat(where, ": unknown section [", section, "]", did_you_mean(section, sections)));
}

// "FILE:LINE" of every key = value line, in order.
std::vector<std::string> list_setting_lines(std::istream& text, const std::string& file,
                                            std::span<const std::string> sections) {
  std::vector<std::string> places;
  std::string line;
  for (int64_t number = 1; std::getline(text, line); ++number) {
    const std::string where = cat(file, ":", number);
    const std::string_view content = trim(std::string_view(line).substr(0, line.find('#')));
    if (content.empty()) continue;
    if (content.front() == '[' && content.back() == ']') {
      check_section(content.substr(1, content.size() - 2), where, sections);
    } else if (content.find('=') == std::string_view::npos) {
      throw ConfigError(
          cat(where, ": expected '[section]' or 'key = value', found '", content, "'"));
    } else {
      places.push_back(where);
    }
  }
  return places;
}

void refuse_repeated_keys(const std::vector<Setting>& settings) {
  std::map<std::string_view, std::string_view> seen;
  for (const Setting& setting : settings) {
    const auto [first, is_new] = seen.emplace(setting.name, setting.where);
    if (is_new) continue;
    throw ConfigError(
        cat(setting.where, ": ", setting.name, " was given before, at ", first->second));
  }
}

}  // namespace

std::vector<Setting> read_command_line(const std::vector<std::string>& arguments,
                                       const std::vector<std::string>& known,
                                       std::span<const std::string> suggested) {
  std::vector<std::string> names = known;
  names.emplace_back("config");
  const po::options_description description = describe(names);
  // No abbreviations: a new option must not change what an old command line means.
  namespace style = po::command_line_style;
  constexpr int kStyle = style::allow_long | style::long_allow_adjacent | style::long_allow_next;
  po::parsed_options parsed(&description);
  try {
    parsed = po::command_line_parser(arguments)
                 .options(description)
                 .style(kStyle)
                 .allow_unregistered()
                 .run();
  } catch (const po::error& error) {
    throw ConfigError(cat("the command line: ", error.what()));
  }
  std::vector<Setting> settings;
  for (const po::option& option : parsed.options) {
    if (option.unregistered) {
      throw ConfigError(cat("unknown option --", option.string_key, " on the command line",
                            did_you_mean(option.string_key, suggested, "--")));
    }
    if (option.string_key.empty()) {
      throw ConfigError(cat("unexpected argument '", option.value.at(0),
                            "' on the command line; options are --section.key VALUE"));
    }
    settings.push_back({option.string_key, option.value, "the command line"});
  }
  return settings;
}

std::vector<Setting> read_ini(std::istream& text, const std::string& file,
                              std::span<const std::string> sections) {
  std::stringstream content;
  content << text.rdbuf();
  const std::vector<std::string> places = list_setting_lines(content, file, sections);
  content.clear();
  content.seekg(0);
  const po::options_description none_registered;
  const po::parsed_options parsed =
      po::parse_config_file(content, none_registered, /*allow_unregistered=*/true);
  VAX_CHECK(parsed.options.size() == places.size(), file, ": Boost found ", parsed.options.size(),
            " settings, the line scan ", places.size());
  std::vector<Setting> settings;
  for (size_t i = 0; i < places.size(); ++i) {
    settings.push_back({parsed.options[i].string_key, parsed.options[i].value, places[i]});
  }
  refuse_repeated_keys(settings);
  return settings;
}

}  // namespace vax::app
