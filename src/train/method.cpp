#include "train/method.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace vax::train {

void Method::set_state(const MethodState& state) {
  if (!state.empty())
    throw DataError(cat("state of the method: expected none, found ", state.begin()->first));
}

void Methods::add(MethodEntry entry) {
  VAX_CHECK(std::ranges::find(entries_, entry.name, &MethodEntry::name) == entries_.end(),
            "two methods ", entry.name);
  entries_.push_back(std::move(entry));
}

const MethodEntry& Methods::find(std::string_view name) const {
  const auto found = std::ranges::find(entries_, name, &MethodEntry::name);
  if (found != entries_.end()) return *found;
  std::vector<std::string> names;
  for (const MethodEntry& entry : entries_) names.push_back(entry.name);
  throw ConfigError(cat("train.method: expected ", join(names, ", "), ", found ", name));
}

}  // namespace vax::train
