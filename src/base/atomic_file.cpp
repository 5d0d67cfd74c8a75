#include "base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>
#include <vector>

#include "base/error.h"

namespace vax {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporaryMark = ".tmp";

void sync_path(const fs::path& path, int flags) {
  const int fd = ::open(path.c_str(), flags);
  if (fd < 0) throw WriteError(cat(path.string(), ": cannot open to sync: ", std::strerror(errno)));
  const int rc = ::fsync(fd);
  const int reason = errno;
  ::close(fd);
  // Some network file systems do not sync directories; the rename is still atomic there.
  if (rc != 0 && reason != EINVAL)
    throw WriteError(cat(path.string(), ": fsync failed: ", std::strerror(reason)));
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

void sync_tree(const fs::path& directory) {
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    sync_path(entry.path(), entry.is_directory() ? O_RDONLY | O_DIRECTORY : O_RDONLY);
  sync_directory(directory);
}

// Moves from one directory to another what `is_own` does not name.
void keep_foreign(const fs::path& from, const fs::path& to,
                  const std::function<bool(const std::string&)>& is_own) {
  if (fs::is_symlink(from) || !fs::is_directory(from)) return;
  std::vector<fs::path> foreign;
  for (const auto& entry : fs::directory_iterator(from))
    if (!is_own(entry.path().filename().string())) foreign.push_back(entry.path().filename());
  for (const fs::path& name : foreign) fs::rename(from / name, to / name);
}

// Runs `body`, removes `temporary` when it throws, and turns system errors into WriteError.
void guarded(const fs::path& path, const fs::path& temporary, const std::function<void()>& body) {
  std::error_code ignored;
  try {
    body();
  } catch (const fs::filesystem_error& e) {
    fs::remove_all(temporary, ignored);
    throw WriteError(cat(path.string(), ": cannot write: ", e.code().message()));
  } catch (...) {
    fs::remove_all(temporary, ignored);
    throw;
  }
}

}  // namespace

fs::path temporary_name(const fs::path& path) {
  return parent_of(path) / cat(".", path.filename().string(), kTemporaryMark, ::getpid());
}

void remove_temporaries(const fs::path& directory) noexcept {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const size_t mark = name.rfind(kTemporaryMark);
    if (!name.starts_with('.') || mark == std::string::npos) continue;
    const std::string process = name.substr(mark + kTemporaryMark.size());
    if (!process.empty() && process.find_first_not_of("0123456789") == std::string::npos)
      found.push_back(entry->path());
  }
  for (const fs::path& path : found) fs::remove_all(path, error);
}

void publish_file(const fs::path& path, const std::function<void(const fs::path&)>& write) {
  const fs::path temporary = temporary_name(path);
  guarded(path, temporary, [&] {
    write(temporary);
    sync_path(temporary, O_RDONLY);
    fs::rename(temporary, path);
    sync_directory(parent_of(path));
  });
}

void publish_text(const fs::path& path, std::string_view text) {
  publish_file(path, [&](const fs::path& temporary) {
    std::ofstream out(temporary, std::ios::binary);
    out.write(text.data(), static_cast<std::streamsize>(text.size()));
    out.close();
    if (!out)
      throw WriteError(
          cat(path.string(), ": cannot write ", text.size(), " bytes: ", std::strerror(errno)));
  });
}

void publish_directory(const fs::path& path, const std::function<bool(const std::string&)>& is_own,
                       const std::function<void(const fs::path&)>& write) {
  const fs::path temporary = temporary_name(path);
  guarded(path, temporary, [&] {
    fs::remove_all(temporary);
    fs::create_directories(temporary);
    write(temporary);
    sync_tree(temporary);
    const fs::path old = temporary.string() + "-old";
    if (fs::exists(path)) fs::rename(path, old);
    fs::rename(temporary, path);
    keep_foreign(old, path, is_own);
    sync_directory(parent_of(path));
    fs::remove_all(old);
  });
}

void sync_directory(const fs::path& directory) { sync_path(directory, O_RDONLY | O_DIRECTORY); }

std::string read_file(const fs::path& path) {
  if (fs::is_directory(path))
    throw DataError(cat(path.string(), ": expected a file, found a directory"));
  std::ifstream in(path, std::ios::binary);
  if (!in) throw DataError(cat(path.string(), ": cannot open: ", std::strerror(errno)));
  std::ostringstream content;
  content << in.rdbuf();
  if (in.bad()) throw DataError(cat(path.string(), ": cannot read: ", std::strerror(errno)));
  return std::move(content).str();
}

}  // namespace vax
