#include "io/posix_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"

namespace vax::io {

static_assert(std::is_nothrow_move_constructible_v<PosixFile> &&
              std::is_nothrow_move_assignable_v<PosixFile>);

PosixFile PosixFile::open_for_reading(const std::filesystem::path& path) {
  return open_existing(path, O_RDONLY);
}

PosixFile PosixFile::open_for_appending(const std::filesystem::path& path, int64_t num_bytes) {
  PosixFile file = open_existing(path, O_WRONLY);
  file.truncate(num_bytes);
  return file;
}

PosixFile PosixFile::open_existing(const std::filesystem::path& path, int flags) {
  // O_NONBLOCK: a pipe that nobody writes to must not hang; regular files ignore it.
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK);
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

PosixFile PosixFile::in_memory(const std::string& name) {
  const int descriptor = ::memfd_create("vaccine", MFD_CLOEXEC);
  if (descriptor < 0)
    throw WriteError(cat(name, ": cannot create in memory: ", std::strerror(errno)));
  return PosixFile(descriptor, name);
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

std::filesystem::path PosixFile::descriptor_path() const {
  return cat("/proc/self/fd/", descriptor_);
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

void PosixFile::copy_to(PosixFile& destination, int64_t offset, int64_t num_bytes) const {
  constexpr int64_t kPieceBytes = 1 << 20;
  std::vector<std::byte> piece(static_cast<size_t>(std::min(num_bytes, kPieceBytes)));
  for (int64_t done = 0; done < num_bytes; done += kPieceBytes) {
    const std::span now(piece.data(), static_cast<size_t>(std::min(num_bytes - done, kPieceBytes)));
    read_at(offset + done, now);
    destination.write(now);
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
