#include "base/json_events.h"

#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "base/error.h"

namespace vax {
namespace {

using nlohmann::json;

// The input iterator through which nlohmann::json reads. It takes a token's characters one by one
// and at most one more, so the line of the last character is the line of the token that an event is
// about.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, int64_t* line) : at_(at), line_(line) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    if (at_line_end_) ++*line_;
    at_line_end_ = *at_++ == '\n';
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const CountingIterator& a, const CountingIterator& b) {
    return a.at_ == b.at_;
  }
  friend bool operator!=(const CountingIterator& a, const CountingIterator& b) { return !(a == b); }

 private:
  const char* at_;
  int64_t* line_;
  bool at_line_end_ = false;
};

std::string shortened(std::string text) {
  constexpr size_t kLongest = 300;
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

// "[json.exception.parse_error.101] parse error at line 1, column 8: syntax error while ...": the
// place is counted here, for lines of a JSONL file too; the rest quotes what was read last, a text
// of any length.
std::string reason_of(const json::exception& error) {
  std::string reason = error.what();
  for (const char* before : {"] ", ": "})
    if (const size_t at = reason.find(before); at != std::string::npos) reason.erase(0, at + 2);
  return shortened(reason);
}

// Between the parser, whose interface names these functions, and the events. The parser keeps its
// own nesting on the heap, so depth costs memory, not stack, and is refused before it costs much.
class StrictHandler {
 public:
  StrictHandler(int max_depth, JsonEvents& events) : max_depth_(max_depth), events_(events) {}

  bool null() { return events_.null(), true; }
  bool boolean(bool value) { return events_.boolean(value), true; }
  bool number_integer(int64_t value) { return events_.integer(value), true; }
  bool number_unsigned(uint64_t value) { return events_.natural(value), true; }
  bool number_float(double value, const std::string&) { return events_.number(value), true; }
  bool string(std::string& value) { return events_.text(value), true; }
  bool binary(json::binary_t&) { return false; }  // not in text

  bool start_object(size_t) {
    events_.begin_object();
    descend();
    return true;
  }
  bool key(std::string& name) {
    if (!keys_.back().insert(name).second)
      events_.refuse({JsonFault::Kind::kRepeatedKey, shortened(name)});
    events_.key(name);
    return true;
  }
  bool end_object() {
    keys_.pop_back();
    events_.end_object();
    return true;
  }
  bool start_array(size_t) {
    events_.begin_array();
    descend();
    return true;
  }
  bool end_array() {
    keys_.pop_back();
    events_.end_array();
    return true;
  }
  bool parse_error(size_t byte, const std::string&, const json::exception& error) {
    events_.refuse({JsonFault::Kind::kSyntax, reason_of(error), byte});
    return false;  // never reached, which the compiler does not see
  }

 private:
  void descend() {
    keys_.emplace_back();
    if (static_cast<int>(keys_.size()) > max_depth_)
      events_.refuse({JsonFault::Kind::kDepth, std::to_string(max_depth_)});
  }

  int max_depth_;
  JsonEvents& events_;
  std::vector<std::set<std::string>> keys_;  // of every object or array that is open
};

}  // namespace

void parse_json_events(std::string_view text, int max_depth, JsonEvents& events) {
  StrictHandler handler(max_depth, events);
  json::sax_parse(CountingIterator(text.data(), &events.line),
                  CountingIterator(text.data() + text.size(), &events.line), &handler);
}

}  // namespace vax
