// Edit distance with swaps (optimal string alignment) over the few dozen option names.
#include "app/did_you_mean.h"

#include <algorithm>
#include <limits>
#include <optional>

namespace vax::app {
namespace {

constexpr size_t kMostSuggestions = 3;

std::string_view key_of(std::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

// Nothing when too far: a fourth of the whole name or a third of the key may be mistyped. A key
// found in another section counts one more, so that the section typed wins a tie.
std::optional<size_t> score(std::string_view typed, std::string_view name) {
  std::optional<size_t> best;
  const size_t whole = edit_distance(typed, name);
  if (whole <= std::max<size_t>(1, name.size() / 4)) best = whole;
  const std::string_view key = key_of(name);
  if (key.size() == name.size()) return best;
  const size_t alone = edit_distance(key_of(typed), key);
  if (alone <= key.size() / 3 && (!best || alone + 1 < *best)) best = alone + 1;
  return best;
}

}  // namespace

size_t edit_distance(std::string_view a, std::string_view b) {
  // Rows i - 2, i - 1 and i of the usual table.
  std::vector<size_t> before_previous(b.size() + 1);
  std::vector<size_t> previous(b.size() + 1);
  std::vector<size_t> current(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) current[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    before_previous.swap(previous);
    previous.swap(current);
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        current[j] = std::min(current[j], before_previous[j - 2] + 1);
      }
    }
  }
  return current[b.size()];
}

std::vector<std::string> closest_names(std::string_view typed, std::span<const std::string> names) {
  std::vector<std::string> closest;
  size_t best = std::numeric_limits<size_t>::max();
  for (const std::string& name : names) {
    const std::optional<size_t> distance = score(typed, name);
    if (!distance || *distance > best) continue;
    if (*distance < best) closest.clear();
    best = *distance;
    if (closest.size() < kMostSuggestions) closest.push_back(name);
  }
  return closest;
}

std::string did_you_mean(std::string_view typed, std::span<const std::string> names,
                         std::string_view prefix) {
  std::string text;
  for (const std::string& name : closest_names(typed, names)) {
    text += text.empty() ? "; did you mean " : " or ";
    text.append(prefix).append(name);
  }
  return text.empty() ? text : text + "?";
}

}  // namespace vax::app
