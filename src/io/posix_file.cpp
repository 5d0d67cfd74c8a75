#include "io/posix_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace vax::io {

static_assert(std::is_nothrow_move_constructible_v<PosixFile> &&
              std::is_nothrow_move_assignable_v<PosixFile>);

PosixFile PosixFile::open_for_reading(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw DataError(cat(path.string(), ": cannot open: ", std::strerror(errno)));
  PosixFile file(descriptor, path.string());
  struct stat info {};
  if (::fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode))
    throw DataError(cat(path.string(), ": expected a regular file"));
  return file;
}

PosixFile PosixFile::create(const std::filesystem::path& path, const std::filesystem::path& shown) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0)
    throw WriteError(cat(shown.string(), ": cannot create: ", std::strerror(errno)));
  return PosixFile(descriptor, shown.string());
}

PosixFile::PosixFile(PosixFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      reserved_bytes_(other.reserved_bytes_),
      name_(std::move(other.name_)) {}

PosixFile& PosixFile::operator=(PosixFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(reserved_bytes_, other.reserved_bytes_);
  std::swap(name_, other.name_);
  return *this;
}

PosixFile::~PosixFile() {
  if (descriptor_ >= 0 && ::close(descriptor_) != 0)
    log::error(cat(name_, ": close failed: ", std::strerror(errno)));
}

int64_t PosixFile::size() const {
  struct stat info {};
  if (::fstat(descriptor_, &info) != 0)
    throw DataError(cat(name_, ": cannot read its size: ", std::strerror(errno)));
  return info.st_size;
}

void PosixFile::read_at(int64_t offset, std::span<std::byte> destination) const {
  size_t done = 0;
  while (done < destination.size()) {
    const ssize_t got = ::pread(descriptor_, destination.data() + done, destination.size() - done,
                                offset + static_cast<int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      throw DataError(cat(name_, ": cannot read ", destination.size(), " bytes at ", offset, ": ",
                          std::strerror(errno)));
    if (got == 0)
      throw DataError(cat(name_, ": expected ", destination.size(), " bytes at offset ", offset,
                          ", the file ends after ", done));
    done += static_cast<size_t>(got);
  }
}

void PosixFile::reserve(int64_t num_bytes) {
  reserved_bytes_ = num_bytes;
  if (num_bytes == 0) return;
  int rc = 0;
  do {
    rc = ::fallocate(descriptor_, 0, 0, num_bytes);
  } while (rc != 0 && errno == EINTR);
  // posix_fallocate would write every block where the file system has no reservation (NFS).
  if (rc != 0 && errno != EOPNOTSUPP && errno != ENOSYS) fail_write(0, errno);
}

void PosixFile::write(std::span<const std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t put = ::write(descriptor_, bytes.data() + done, bytes.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_write(bytes.size(), errno);
    done += static_cast<size_t>(put);
  }
}

void PosixFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void PosixFile::truncate(int64_t num_bytes) {
  if (::ftruncate(descriptor_, num_bytes) != 0 || ::lseek(descriptor_, num_bytes, SEEK_SET) < 0)
    throw WriteError(cat(name_, ": cannot cut to ", num_bytes, " bytes: ", std::strerror(errno)));
}

void PosixFile::sync() {
  // Pipes and some network file systems have nothing to sync.
  if (::fsync(descriptor_) != 0 && errno != EINVAL)
    throw WriteError(cat(name_, ": fsync failed: ", std::strerror(errno)));
}

void PosixFile::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  if (descriptor >= 0 && ::close(descriptor) != 0)
    throw WriteError(cat(name_, ": close failed: ", std::strerror(errno)));
}

void PosixFile::fail_write(size_t num_bytes, int reason) const {
  const size_t needed = std::max(num_bytes, static_cast<size_t>(reserved_bytes_));
  struct statvfs space {};
  std::string available;
  if (::fstatvfs(descriptor_, &space) == 0)
    available = cat(" (", static_cast<uint64_t>(space.f_bavail) * space.f_frsize, " bytes free)");
  throw WriteError(
      cat(name_, ": cannot write ", needed, " bytes", available, ": ", std::strerror(reason)));
}

}  // namespace vax::io
