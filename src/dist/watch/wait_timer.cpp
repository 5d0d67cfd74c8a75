#include "dist/watch/wait_timer.h"

#include <algorithm>

namespace vax::dist {

void WaitTimer::look(const std::vector<Wait>& waits, std::chrono::steady_clock::time_point now) {
  if (last_)
    awake_s_ += std::min(longest_step_s_, std::chrono::duration<double>(now - *last_).count());
  last_ = now;
  std::erase_if(seen_, [&](const Seen& seen) { return std::ranges::count(waits, seen.wait) == 0; });
  for (const Wait& wait : waits)
    if (!goes_on(wait)) seen_.push_back({wait, awake_s_});
}

std::optional<WaitTimer::Longest> WaitTimer::longest() const {
  const auto oldest = std::ranges::min_element(seen_, {}, &Seen::since_s);
  if (oldest == seen_.end()) return std::nullopt;
  return Longest{oldest->wait, awake_s_ - oldest->since_s};
}

bool WaitTimer::goes_on(const Wait& wait) const {
  return std::ranges::any_of(seen_, [&](const Seen& seen) { return seen.wait == wait; });
}

}  // namespace vax::dist
