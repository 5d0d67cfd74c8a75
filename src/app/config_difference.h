// What two runs' resolved configurations differ in, as far as it matters to who goes on with the
// other's checkpoint.
#pragma once

#include <string>
#include <vector>

#include "app/option_table.h"

namespace vax::app {

struct ConfigDifference {
  std::string name;  // "train.lr"
  std::string before, now;
  // A run cannot change it: the remaining steps would be on other rows or other weights, or what is
  // measured would have another shape.
  bool is_fixed = false;
};

// Both texts as to_ini() makes them; options of OnResume::kSameNumbers are left out. THROWS
// ConfigError for a text that cannot be read.
std::vector<ConfigDifference> config_differences(const OptionTable& table,
                                                 const std::string& before, const std::string& now);

}  // namespace vax::app
