// Publishing files so that a reader sees the old content or the new one, never a part: written
// under a temporary name in the same directory, fsync, rename, fsync of the directory.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace vax {

// The temporary name under which `path` is prepared; it is removed when preparation fails.
std::filesystem::path temporary_name(const std::filesystem::path& path);

// Removes what publishing of killed processes has left unfinished in `directory`, as far as it can.
// REQUIRES that nobody is publishing there.
void remove_temporaries(const std::filesystem::path& directory) noexcept;

// `write` fills the temporary path it is given. THROWS WriteError when the file cannot be written,
// and whatever `write` throws; in both cases nothing is left behind.
void publish_file(const std::filesystem::path& path,
                  const std::function<void(const std::filesystem::path&)>& write);
void publish_text(const std::filesystem::path& path, std::string_view text);

// The same for a directory that `write` fills. An existing directory at `path` is replaced, but
// what stands there under other names than those of `is_own` goes on in the new one: it is somebody
// else's.
void publish_directory(const std::filesystem::path& path,
                       const std::function<bool(const std::string&)>& is_own,
                       const std::function<void(const std::filesystem::path&)>& write);

// Makes the names in a directory durable: what was created, renamed or removed there. THROWS
// WriteError.
void sync_directory(const std::filesystem::path& directory);

// Whole file as bytes. THROWS DataError with the path and the system's reason.
std::string read_file(const std::filesystem::path& path);

}  // namespace vax
