#include "io/hdf5_handle.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"

namespace vax::io {
namespace {

// The library's own state is global, so is the lock that guards it.
std::recursive_mutex& library_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

// The library adds the same frames again for every chunk it fails to write.
constexpr unsigned kFramesShown = 6;

struct ErrorStack {
  std::string text;  // innermost first: "H5FD__sec2_open: unable to open file: ...; H5F_open: ..."
  bool write_failed = false;
};

herr_t collect(unsigned depth, const H5E_error2_t* error, void* data) {
  auto* stack = static_cast<ErrorStack*>(data);
  stack->write_failed |= error->min_num == H5E_WRITEERROR || error->min_num == H5E_CANTFLUSH;
  if (depth >= kFramesShown) return 0;
  if (!stack->text.empty()) stack->text += "; ";
  stack->text += cat(error->func_name ? error->func_name : "?", ": ",
                     error->desc ? error->desc : "no description");
  std::ranges::replace(stack->text, '\n', ' ');
  return 0;
}

ErrorStack take_error_stack() {
  ErrorStack stack;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect, &stack);
  H5Eclear2(H5E_DEFAULT);
  return stack;
}

}  // namespace

Hdf5Lock::Hdf5Lock() : lock_(library_mutex()) {
  // The library's exit handler closes what is open; here handles do that. After a write that failed
  // it would walk over half-closed files and crash (seen with 1.10.8), turning a full disk into a
  // segmentation fault. Takes effect only before the first other call.
  [[maybe_unused]] static const herr_t without_exit_handler = H5dont_atexit();
  // Per thread in thread-safe builds, hence set each time; it costs nanoseconds.
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

void detail::fail_hdf5(const char* call, std::string_view object, std::source_location where) {
  const ErrorStack stack = take_error_stack();
  const std::string message =
      cat(object, ": HDF5 call failed: ", call, " (", where.file_name(), ":", where.line(),
          "): ", stack.text.empty() ? "the library gives no reason" : stack.text);
  if (stack.write_failed) throw WriteError(message);
  throw DataError(message);
}

void detail::log_failed_close(std::string_view kind) noexcept {
  try {
    log::error(cat("HDF5: closing a ", kind, " failed: ", take_error_stack().text));
  } catch (...) {  // out of memory while reporting: there is nobody left to tell
  }
}

}  // namespace vax::io
