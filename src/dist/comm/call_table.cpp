#include "dist/comm/call_table.h"

#include "base/error.h"

namespace vax::dist {

std::string ranks_text(const std::vector<int>& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    const bool is_run = end - i > 2;
    if (!is_run) end = i + 1;
    text += cat(text.empty() ? "" : " ", ranks[i]);
    if (is_run) text += cat("-", ranks[end - 1]);
    i = end;
  }
  return text;
}

}  // namespace vax::dist
