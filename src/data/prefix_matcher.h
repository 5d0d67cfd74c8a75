// Longest-match search in a fixed set of strings: the USER_DEFINED pieces that SentencePiece cuts
// out before any merge, and the special tokens of a text with parse_special. Holds copies of the
// strings; const after construction, so threads may share it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace vax::data {

// Lets a map of std::string be searched with a std::string_view.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

class PrefixMatcher {
 public:
  struct Match {
    size_t length = 0;  // bytes; 0 = no string of the set starts here
    int64_t id = -1;
  };

  // REQUIRES a non-empty text. A text that is already there keeps its first id.
  void add(std::string_view text, int64_t id);

  bool empty() const { return ids_.empty(); }

  // The longest string of the set that `text` starts with.
  Match longest_prefix(std::string_view text) const;

 private:
  std::unordered_map<std::string, int64_t, StringHash, std::equal_to<>> ids_;
  // Lengths in use for each first byte, longest first: one look-up per length, however many
  // strings the set has.
  std::array<std::vector<size_t>, 256> lengths_;
};

}  // namespace vax::data
