// Suggestions for names that do not exist.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vax::app {

// Insertions, deletions, replacements and swaps of neighbours that turn one text into the other.
size_t edit_distance(std::string_view a, std::string_view b);

// The names nearest to `typed` (at most three, equally near), or none when nothing is near. Of
// "section.key" names the key alone may match too: "--rho" and "--train.rho" find vaccine.rho.
std::vector<std::string> closest_names(std::string_view typed, std::span<const std::string> names);

// "; did you mean --train.lr or --train.clip?" with `prefix` before each name; "" for none.
std::string did_you_mean(std::string_view typed, std::span<const std::string> names,
                         std::string_view prefix = "");

}  // namespace vax::app
