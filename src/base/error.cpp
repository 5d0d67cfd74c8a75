#include "base/error.h"

namespace vax::detail {

void fail_check(const char* condition, const std::string& message, std::source_location where) {
  throw std::logic_error(cat(where.file_name(), ":", where.line(), ": ", where.function_name(),
                             ": check failed: ", condition, message.empty() ? "" : ": ", message));
}

}  // namespace vax::detail
