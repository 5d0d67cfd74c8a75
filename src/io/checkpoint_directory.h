// The directory that a run's checkpoints lie in: names, publishing, pruning. A checkpoint is under
// its name step-NNNNNN exactly when it is complete; while it is written it is .step-NNNNNN.writing,
// while it is deleted .step-NNNNNN.deleting, and what resume has rejected or left behind keeps its
// contents under step-NNNNNN.rejected or .superseded (a number follows when that name is taken).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace vax::io {

struct CheckpointEntry {
  int64_t step = 0;
  std::filesystem::path path;
};

// root/step-000120; more digits where six are not enough.
std::filesystem::path checkpoint_path(const std::filesystem::path& root, int64_t step);
// The step of a path that checkpoint_path() may have made (a trailing slash is ignored), else -1.
int64_t step_of_checkpoint(const std::filesystem::path& path);

// Newest first; none when `root` does not exist. THROWS DataError when it cannot be read.
std::vector<CheckpointEntry> list_checkpoints(const std::filesystem::path& root);

// Where a checkpoint is prepared.
std::filesystem::path writing_path(const std::filesystem::path& root, int64_t step);
// Makes root and an empty writing_path(). THROWS WriteError.
void create_writing_directory(const std::filesystem::path& root, int64_t step);
// Renames it to checkpoint_path(), with fsyncs before and after; an older checkpoint of that step
// is set aside as superseded. THROWS WriteError.
void publish_checkpoint(const std::filesystem::path& root, int64_t step);

// Removes all but the `keep` newest. THROWS WriteError.
void prune_checkpoints(const std::filesystem::path& root, int64_t keep);
// Removes what killed runs have left half written or half deleted. THROWS WriteError.
void remove_unfinished(const std::filesystem::path& root);
// Renames to path.SUFFIX; returns the new path. THROWS WriteError.
std::filesystem::path set_aside(const std::filesystem::path& path, const std::string& suffix);

// THROWS WriteError with the bytes needed and free when the file system of `directory` (or of its
// nearest ancestor that exists) has less than `num_bytes` for this user.
void require_free_space(const std::filesystem::path& directory, int64_t num_bytes);

}  // namespace vax::io
