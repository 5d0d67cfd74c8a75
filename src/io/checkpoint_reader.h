// Reads a checkpoint directory that may come from anywhere: nothing is believed before it has been
// verified. One object per rank; const methods may run in several threads.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint_manifest.h"
#include "io/posix_file.h"

namespace vax::io {

class CheckpointReader {
 public:
  // Reads manifest.json and its hash, and compares the sizes of all files. THROWS DataError.
  static CheckpointReader open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  const CheckpointManifest& manifest() const { return manifest_; }

  // Hash of a file, read whole. THROWS DataError naming the file, expected and found.
  void verify_file(size_t file) const;

  // Where a parameter is; null when the checkpoint has no such array.
  struct Place {
    const CheckpointUnit* unit;
    const CheckpointArray* array;
    const CheckpointMember* member;
  };
  // `kind` of parameter `name`. THROWS DataError when it is missing.
  Place find(std::string_view plane, std::string_view kind, std::string_view name) const;

  // Elements [first, first + n) of the parameter in the array's own type, n from the size of
  // `destination`. REQUIRES a range within the parameter. THROWS DataError when reading fails.
  void read(const Place& place, int64_t first, std::span<std::byte> destination) const;

 private:
  CheckpointReader() = default;

  std::filesystem::path directory_;
  CheckpointManifest manifest_;
  std::vector<PosixFile> files_;
  std::map<std::string, Place, std::less<>> places_;  // by plane, kind and name
};

}  // namespace vax::io
