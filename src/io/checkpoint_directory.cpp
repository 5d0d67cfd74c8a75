#include "io/checkpoint_directory.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <functional>
#include <system_error>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/narrow.h"

namespace vax::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-";
constexpr size_t kMinDigits = 6;

std::string step_name(int64_t step) {
  VAX_CHECK(step >= 0, "step ", step);
  const std::string digits = std::to_string(step);
  const std::string zeros(kMinDigits - std::min(digits.size(), kMinDigits), '0');
  return cat(kPrefix, zeros, digits);
}

// Only names that step_name() gives: what else lies in the directory is not ours.
int64_t step_of_name(std::string_view name) {
  if (!name.starts_with(kPrefix)) return -1;
  const std::string_view digits = name.substr(kPrefix.size());
  int64_t step = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc() || step < 0 || step_name(step) != name) return -1;
  return step;
}

fs::path deleting_path(const fs::path& root, int64_t step) {
  return root / cat(".", step_name(step), ".deleting");
}

// .step-NNNNNN.writing and .step-NNNNNN.deleting
bool is_unfinished(std::string name) {
  for (const std::string_view suffix : {".writing", ".deleting"}) {
    if (!name.starts_with(".") || !name.ends_with(suffix)) continue;
    return step_of_name(name.substr(1, name.size() - 1 - suffix.size())) >= 0;
  }
  return false;
}

fs::path without_trailing_slash(const fs::path& path) {
  fs::path normal = path.lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

// The directory that holds `path`.
fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// Errors of `body` as errors of writing; those of fs name their paths.
void as_write_errors(const std::function<void()>& body) {
  try {
    body();
  } catch (const fs::filesystem_error& e) {
    throw WriteError(e.what());
  } catch (const DataError& e) {
    throw WriteError(e.what());
  }
}

// Under another name first: a checkpoint that is half deleted must not look like one.
void remove_checkpoint(const fs::path& root, const CheckpointEntry& entry) {
  const fs::path doomed = deleting_path(root, entry.step);
  fs::remove_all(doomed);
  fs::rename(entry.path, doomed);
  sync_directory(root);
  fs::remove_all(doomed);
}

}  // namespace

fs::path checkpoint_path(const fs::path& root, int64_t step) { return root / step_name(step); }

int64_t step_of_checkpoint(const fs::path& path) {
  return step_of_name(without_trailing_slash(path).filename().string());
}

std::vector<CheckpointEntry> list_checkpoints(const fs::path& root) {
  std::vector<CheckpointEntry> entries;
  try {
    if (!fs::exists(root)) return entries;
    for (const auto& entry : fs::directory_iterator(root)) {
      const int64_t step = step_of_checkpoint(entry.path());
      if (step >= 0 && entry.is_directory()) entries.push_back({step, entry.path()});
    }
  } catch (const fs::filesystem_error& e) {
    throw DataError(cat(root.string(), ": cannot list checkpoints: ", e.code().message()));
  }
  std::ranges::sort(entries, std::greater<>(), &CheckpointEntry::step);
  return entries;
}

fs::path writing_path(const fs::path& root, int64_t step) {
  return root / cat(".", step_name(step), ".writing");
}

void create_writing_directory(const fs::path& root, int64_t step) {
  as_write_errors([&] {
    if (fs::create_directories(root)) sync_directory(parent_of(without_trailing_slash(root)));
    fs::remove_all(writing_path(root, step));
    fs::create_directory(writing_path(root, step));
  });
}

void publish_checkpoint(const fs::path& root, int64_t step) {
  as_write_errors([&] {
    sync_directory(writing_path(root, step));
    const fs::path path = checkpoint_path(root, step);
    if (fs::exists(fs::symlink_status(path))) set_aside(path, "superseded");
    fs::rename(writing_path(root, step), path);
    sync_directory(root);
  });
}

void prune_checkpoints(const fs::path& root, int64_t keep) {
  VAX_CHECK(keep >= 1, "keep ", keep);
  as_write_errors([&] {
    const std::vector<CheckpointEntry> entries = list_checkpoints(root);
    for (size_t i = narrow<size_t>(keep); i < entries.size(); ++i)
      remove_checkpoint(root, entries[i]);
  });
}

void remove_unfinished(const fs::path& root) {
  as_write_errors([&] {
    if (!fs::exists(root)) return;
    std::vector<fs::path> doomed;
    for (const auto& entry : fs::directory_iterator(root))
      if (is_unfinished(entry.path().filename().string())) doomed.push_back(entry.path());
    for (const fs::path& path : doomed) fs::remove_all(path);
  });
}

fs::path set_aside(const fs::path& path, const std::string& suffix) {
  const fs::path old = without_trailing_slash(path);
  fs::path name = cat(old.string(), ".", suffix);
  as_write_errors([&] {
    for (int number = 2; fs::exists(fs::symlink_status(name)); ++number)
      name = cat(old.string(), ".", suffix, ".", number);
    fs::rename(old, name);
    sync_directory(parent_of(old));
  });
  return name;
}

void require_free_space(const fs::path& directory, int64_t num_bytes) {
  fs::path existing = fs::absolute(directory);
  std::error_code ignored;
  while (!fs::exists(existing, ignored) && existing.has_relative_path())
    existing = existing.parent_path();
  struct statvfs space {};
  if (::statvfs(existing.c_str(), &space) != 0)
    throw WriteError(
        cat(existing.string(), ": cannot read its free space: ", std::strerror(errno)));
  // f_bavail, not f_bfree: some blocks are root's.
  const auto free_bytes = static_cast<uint64_t>(space.f_bavail) * space.f_frsize;
  if (free_bytes < narrow<uint64_t>(num_bytes))
    throw WriteError(cat(directory.string(), ": not enough space: ", num_bytes, " bytes needed, ",
                         free_bytes, " bytes free"));
}

}  // namespace vax::io
