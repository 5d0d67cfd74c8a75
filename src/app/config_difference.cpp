#include "app/config_difference.h"

#include <map>
#include <sstream>

#include "app/setting_sources.h"

namespace vax::app {
namespace {

std::map<std::string, std::string> settings_of(const std::string& configuration,
                                               const std::string& whose) {
  std::istringstream text(configuration);
  std::map<std::string, std::string> values;
  for (const Setting& setting : read_ini(text, whose, {}))
    values[setting.name] = setting.values.at(0);
  return values;
}

}  // namespace

std::vector<ConfigDifference> config_differences(const OptionTable& table,
                                                 const std::string& before,
                                                 const std::string& now) {
  std::vector<ConfigDifference> differences;
  const auto then = settings_of(before, "the checkpoint's configuration");
  for (const auto& [name, value] : settings_of(now, "this run's configuration")) {
    const auto found = then.find(name);
    const std::string old = found == then.end() ? "" : found->second;
    const OnResume change = table.at(name).on_resume;
    if (old != value && change != OnResume::kSameNumbers)
      differences.push_back({name, old, value, change == OnResume::kRefused});
  }
  return differences;
}

}  // namespace vax::app
