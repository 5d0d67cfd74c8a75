#include "data/prefix_matcher.h"

#include <algorithm>

#include "base/error.h"

namespace vax::data {

void PrefixMatcher::add(std::string_view text, int64_t id) {
  VAX_CHECK(!text.empty());
  ids_.emplace(text, id);
  std::vector<size_t>& lengths = lengths_[static_cast<unsigned char>(text[0])];
  const auto at = std::lower_bound(lengths.begin(), lengths.end(), text.size(), std::greater<>());
  if (at == lengths.end() || *at != text.size()) lengths.insert(at, text.size());
}

PrefixMatcher::Match PrefixMatcher::longest_prefix(std::string_view text) const {
  if (text.empty()) return {};
  for (const size_t length : lengths_[static_cast<unsigned char>(text[0])]) {
    if (length > text.size()) continue;
    const auto found = ids_.find(text.substr(0, length));
    if (found != ids_.end()) return {.length = length, .id = found->second};
  }
  return {};
}

}  // namespace vax::data
