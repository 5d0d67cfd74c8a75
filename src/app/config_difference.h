// What two runs' resolved configurations differ in, as far as it matters to who goes on with the
// other's checkpoint.
#pragma once

#include <string>
#include <vector>

namespace vax::app {

struct ConfigDifference {
  std::string name;  // "train.lr"
  std::string before, now;
  // A run cannot change it: the remaining steps would be on other rows or other weights, or what is
  // measured would have another shape.
  bool is_fixed = false;
};

// Both texts as to_ini() makes them. Options that change no number of a run are left out: where
// files lie, how work and weights are spread, what is written when.
std::vector<ConfigDifference> config_differences(const std::string& before, const std::string& now);

}  // namespace vax::app
