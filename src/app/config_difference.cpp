#include "app/config_difference.h"

#include <map>
#include <set>
#include <string_view>

#include "app/resolved_config.h"

namespace vax::app {
namespace {

using Names = std::set<std::string, std::less<>>;

// An option in neither list changes numbers, but not which rows come next: a user may have reasons
// to change it in the middle of a run.
const Names kFixed = {
    "adapter.type",       "adapter.r",     "adapter.alpha",      "adapter.targets",
    "data.format",        "data.template", "data.parse_special", "data.max_length",
    "data.samples",       "data.skip",     "data.shuffle",       "data.harmful_ratio",
    "train.global_batch", "train.seed",    "drift.samples",      "drift.batch"};
// Data files are known by their hashes.
const Names kSameNumbers = {"data.path",       "data.harmful_path", "train.micro_batch",
                            "train.recompute", "drift.interval",    "vaccine.probe_check_interval"};
const Names kSectionsOfSameNumbers = {"checkpoint", "output", "runtime", "shard"};

bool changes_no_number(const std::string& name) {
  return kSameNumbers.contains(name) ||
         kSectionsOfSameNumbers.contains(name.substr(0, name.find('.')));
}

}  // namespace

std::vector<ConfigDifference> config_differences(const std::string& before,
                                                 const std::string& now) {
  std::vector<ConfigDifference> differences;
  const auto then = read_ini(before);
  for (const auto& [name, value] : read_ini(now)) {
    const auto found = then.find(name);
    const std::string old = found == then.end() ? "" : found->second;
    if (old != value && !changes_no_number(name))
      differences.push_back({name, old, value, kFixed.contains(name)});
  }
  return differences;
}

}  // namespace vax::app
