#include "app/session.h"

#include <map>
#include <tuple>
#include <vector>

#include "base/error.h"

namespace vax::app {
namespace {

// How one rank's part of an action went.
struct Outcome {
  int code = kDone;
  std::string message;
  static auto wire_fields(auto& self) { return std::tie(self.code, self.message); }
};

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
  Outcome own;
  try {
    body();
  } catch (const std::exception& e) {
    own = {.code = exit_code_of(e), .message = e.what()};
  }
  const std::vector<Outcome> all = world.all_gather_values(own);
  std::map<std::string, std::vector<int>> ranks_by_message;
  int code = kDone;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].code == kDone) continue;
    code = std::max(code, all[rank].code);
    ranks_by_message[all[rank].message].push_back(static_cast<int>(rank));
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
