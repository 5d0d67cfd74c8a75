#include "app/session.h"

#include <map>
#include <vector>

#include "base/error.h"

namespace vax::app {
namespace {

// First character of a gathered message: its exit code. An empty message is success.
std::string encode(ExitCode code, const std::string& message) {
  return cat(static_cast<int>(code), message);
}

}  // namespace

ExitCode exit_code_of(const std::exception& error) {
  if (dynamic_cast<const ConfigError*>(&error) != nullptr ||
      dynamic_cast<const DataError*>(&error) != nullptr)
    return kBadInput;
  if (dynamic_cast<const CommError*>(&error) != nullptr) return kCommFailed;
  if (const auto* agreed = dynamic_cast<const AgreedError*>(&error)) return agreed->code();
  return kUnexpected;
}

void together(const dist::Communicator& world, const std::function<void()>& body) {
  std::string own;
  try {
    body();
  } catch (const std::exception& e) {
    own = encode(exit_code_of(e), e.what());
  }
  const std::vector<std::string> all = world.all_gather_text(own);
  std::map<std::string, std::vector<int>> ranks_by_message;
  int code = kDone;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    code = std::max(code, all[rank].front() - '0');
    ranks_by_message[all[rank].substr(1)].push_back(static_cast<int>(rank));
  }
  if (code == kDone) return;
  std::string text;
  for (const auto& [message, ranks] : ranks_by_message) {
    if (!text.empty()) text += '\n';
    if (ranks.size() < all.size()) {
      text += "rank";
      for (const int rank : ranks) text += cat(" ", rank);
      text += ": ";
    }
    text += message;
  }
  throw AgreedError(text, static_cast<ExitCode>(code));
}

}  // namespace vax::app
