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
  // THROWS DataError with the path and the system's reason; also when it is not a regular file.
  static PosixFile open_for_reading(const std::filesystem::path& path);
  // Creates or empties `path`. Messages name `shown`, the path the user knows, where `path` is a
  // temporary name. THROWS WriteError.
  static PosixFile create(const std::filesystem::path& path, const std::filesystem::path& shown);

  PosixFile(PosixFile&& other) noexcept;
  PosixFile& operator=(PosixFile&& other) noexcept;
  ~PosixFile();

  const std::string& name() const { return name_; }
  int64_t size() const;  // bytes

  // Fills `destination` from byte `offset`. THROWS DataError when the file ends earlier.
  void read_at(int64_t offset, std::span<std::byte> destination) const;

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
  // `num_bytes`: of the transfer that failed; the message tells the whole size where it is known.
  [[noreturn]] void fail_write(size_t num_bytes, int reason) const;

  int descriptor_ = -1;
  int64_t reserved_bytes_ = 0;
  std::string name_;
};

}  // namespace vax::io
