// JSON text as a stream of events, for readers that keep no tree of it (data/record_parser.h) and
// for the one that does (base/json.h). What every reader refuses stands here: a key that stands
// twice in one object (readers disagree which one counts), nesting beyond a limit (a depth bomb
// must not exhaust memory), text that is not valid UTF-8, numbers beyond the range of double.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace vax {

struct JsonFault {
  enum class Kind { kSyntax, kRepeatedKey, kDepth };
  Kind kind;
  std::string detail;  // the parser's reason, the key, the limit; of a message's length
  size_t byte = 0;     // of the text, 1-based, where the syntax breaks
};

class JsonEvents {
 public:
  virtual ~JsonEvents() = default;

  virtual void null() = 0;
  virtual void boolean(bool value) = 0;
  virtual void integer(int64_t value) = 0;    // below 0
  virtual void natural(uint64_t value) = 0;   // an integer from 0 on
  virtual void number(double value) = 0;      // with a point or an exponent
  virtual void text(std::string& value) = 0;  // may be moved from
  virtual void begin_object() = 0;
  virtual void key(std::string& name) = 0;  // may be moved from
  virtual void end_object() = 0;
  virtual void begin_array() = 0;
  virtual void end_array() = 0;
  // THROWS DataError.
  [[noreturn]] virtual void refuse(const JsonFault& fault) = 0;

  int64_t line = 1;  // of the text, where the event's last character stands
};

void parse_json_events(std::string_view text, int max_depth, JsonEvents& events);

}  // namespace vax
