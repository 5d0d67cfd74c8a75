// One open file descriptor. Transfers are complete or an error: a short read or write never passes
// silently. Reads use pread and share no position, so const methods may run in several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace vax::io {

class PosixFile {
 public:
  // THROWS DataError with the path and the system's reason; also when it is not a regular file (a
  // pipe does not block).
  static PosixFile open_for_reading(const std::filesystem::path& path);
  // Cuts an existing file to its first `num_bytes` and writes on there. THROWS as the function
  // above, WriteError when it cannot be cut.
  static PosixFile open_for_appending(const std::filesystem::path& path, int64_t num_bytes);
  // Creates or empties `path`. Messages name `shown`, the path the user knows, where `path` is a
  // temporary name. THROWS WriteError.
  static PosixFile create(const std::filesystem::path& path, const std::filesystem::path& shown);

  // A file in memory that goes with this object (memfd_create); pages that nobody writes take no
  // memory. THROWS WriteError.
  static PosixFile in_memory(const std::string& name);

  PosixFile(PosixFile&& other) noexcept;
  PosixFile& operator=(PosixFile&& other) noexcept;
  ~PosixFile();

  const std::string& name() const { return name_; }
  int64_t size() const;  // bytes
  // Under which this process can open the file again while it is open here, whatever its name.
  std::filesystem::path descriptor_path() const;

  // Fills `destination` from byte `offset`. THROWS DataError when the file ends earlier.
  void read_at(int64_t offset, std::span<std::byte> destination) const;

  // Appends `num_bytes` from byte `offset` on to `destination`. THROWS DataError, WriteError.
  void copy_to(PosixFile& destination, int64_t offset, int64_t num_bytes) const;

  // Announces the final size and reserves it where the file system can, so that a full disk shows
  // before the data is made. THROWS WriteError with the bytes needed and the bytes free.
  void reserve(int64_t num_bytes);
  // Appends at the current position. THROWS WriteError; what was written before stays.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void truncate(int64_t num_bytes);
  void sync();
  // Reports what the destructor would have to swallow: some file systems tell of a failed write
  // only here. THROWS WriteError.
  void close();

 private:
  PosixFile(int descriptor, std::string name) : descriptor_(descriptor), name_(std::move(name)) {}
  static PosixFile open_existing(const std::filesystem::path& path, int flags);
  // `num_bytes`: of the transfer that failed; the message tells the whole size where it is known.
  [[noreturn]] void fail_write(size_t num_bytes, int reason) const;

  int descriptor_ = -1;
  int64_t reserved_bytes_ = 0;
  std::string name_;
};

}  // namespace vax::io
