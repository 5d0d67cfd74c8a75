// Errors of the whole program. Which class is thrown decides the exit code (app/main.cpp):
// ConfigError and DataError 2, CommError 3, everything else (WriteError too) 1. A message names
// what failed, the expected and the actual value, and the object (path, tensor, option).
#pragma once

#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>

namespace vax {

// The user's configuration is wrong: they can fix it.
class ConfigError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file or its contents are wrong.
class DataError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A write that the machine refused: full disk, quota, file-size limit, I/O error. Neither the
// configuration nor an input file is wrong; what can go on without the file may go on. The message
// has the path and the bytes.
class WriteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// MPI, NCCL or another rank failed.
class CommError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// cat("rank ", 3, " of ", 4): the stream representations of its arguments, joined.
template <typename... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

namespace detail {
[[noreturn]] void fail_check(const char* condition, const std::string& message,
                             std::source_location where);
}  // namespace detail

}  // namespace vax

// An invariant of the program itself, checked in release builds too. THROWS std::logic_error.
#define VAX_CHECK(condition, ...)                                                      \
  do {                                                                                 \
    if (!(condition)) [[unlikely]]                                                     \
      ::vax::detail::fail_check(#condition, ::vax::cat("" __VA_OPT__(, ) __VA_ARGS__), \
                                std::source_location::current());                      \
  } while (false)
