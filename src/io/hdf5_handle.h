// Private to this folder.
// HDF5's handles as move-only objects, and its error codes as exceptions. One of the few headers
// that include hdf5.h: only files named hdf5_* do.
//
// The library is one piece of global state: builds without its thread-safety option, and the
// dimension-scale functions in every build, must not run in two threads at once. Whoever calls HDF5
// holds an Hdf5Lock, handles' destructors included.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <source_location>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace vax::io {

// Serialises the process's HDF5 calls; may be taken again by the thread that holds it. Also keeps
// the library from printing its error stack, which goes into the exceptions instead.
class Hdf5Lock {
 public:
  Hdf5Lock();

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

namespace detail {
// THROWS WriteError when the error stack tells of a failed write (full disk), else DataError. The
// message has the call, the object, the place in the source and the stack's text.
[[noreturn]] void fail_hdf5(const char* call, std::string_view object, std::source_location where);
void log_failed_close(std::string_view kind) noexcept;
}  // namespace detail

// The result of an HDF5 call, negative on failure. Used through VAX_HDF5.
template <typename Result>
Result check_hdf5(Result result, const char* call, std::string_view object,
                  std::source_location where = std::source_location::current()) {
  if (result < 0) [[unlikely]]
    detail::fail_hdf5(call, object, where);
  return result;
}

// VAX_HDF5(H5Dread(...), "/drift/l2sq"): the call's result, or an exception that names the object.
#define VAX_HDF5(call, object) ::vax::io::check_hdf5((call), #call, (object))

// Owns one identifier that `Close` releases. A moved-from or default object owns nothing.
template <herr_t (*Close)(hid_t)>
class Hdf5Handle {
 public:
  Hdf5Handle() = default;
  explicit Hdf5Handle(hid_t id) noexcept : id_(id) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)) {}
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  ~Hdf5Handle() {
    if (id_ < 0) return;
    const Hdf5Lock lock;
    if (Close(id_) < 0) detail::log_failed_close("handle");
  }

  hid_t get() const noexcept { return id_; }
  explicit operator bool() const noexcept { return id_ >= 0; }

  // Releases now, so that a failed write at closing is an exception, not a log line.
  void close(std::string_view object) {
    const Hdf5Lock lock;
    if (id_ >= 0) VAX_HDF5(Close(std::exchange(id_, H5I_INVALID_HID)), object);
  }

 private:
  hid_t id_ = H5I_INVALID_HID;
};

using Hdf5File = Hdf5Handle<H5Fclose>;
using Hdf5Group = Hdf5Handle<H5Gclose>;
using Hdf5Dataset = Hdf5Handle<H5Dclose>;
using Hdf5Space = Hdf5Handle<H5Sclose>;
using Hdf5Type = Hdf5Handle<H5Tclose>;
using Hdf5Attribute = Hdf5Handle<H5Aclose>;
using Hdf5Properties = Hdf5Handle<H5Pclose>;

static_assert(std::is_nothrow_move_constructible_v<Hdf5File> &&
              std::is_nothrow_move_assignable_v<Hdf5File>);

}  // namespace vax::io
