#include "io/checkpoint_reader.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/narrow.h"
#include "base/sha256.h"

namespace vax::io {
namespace {

namespace fs = std::filesystem;

// 1,000 ranks of a model of 100 layers need about 15 MB.
constexpr int64_t kMaxManifestBytes = int64_t{256} << 20;
constexpr int64_t kHashChunkBytes = int64_t{4} << 20;

std::string read_text(const fs::path& path, int64_t max_bytes) {
  const PosixFile file = PosixFile::open_for_reading(path);
  const int64_t num_bytes = file.size();
  if (num_bytes > max_bytes)
    throw DataError(
        cat(path.string(), ": expected at most ", max_bytes, " bytes, found ", num_bytes));
  std::string text(narrow<size_t>(num_bytes), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

// manifest.json's text, after comparing it with the hash beside it.
std::string read_manifest(const fs::path& directory) {
  const fs::path path = directory / "manifest.json";
  const fs::path hash_path = directory / "manifest.json.sha256";
  std::string text = read_text(path, kMaxManifestBytes);
  const std::string expected = read_text(hash_path, 256);
  const std::string found = sha256_of_text(text) + "  manifest.json\n";
  if (found != expected)
    throw DataError(cat(path.string(), ": its hash differs from the one in ", hash_path.string(),
                        ": expected ", expected.substr(0, 64), ", found ", found.substr(0, 64)));
  return text;
}

std::string place_key(std::string_view plane, std::string_view kind, std::string_view name) {
  return cat(plane, "/", kind, "/", name);
}

}  // namespace

CheckpointReader CheckpointReader::open(const fs::path& directory) {
  CheckpointReader reader;
  reader.directory_ = directory;
  reader.manifest_ =
      parse_manifest(read_manifest(directory), (directory / "manifest.json").string());
  for (const CheckpointFile& file : reader.manifest_.files) {
    reader.files_.push_back(PosixFile::open_for_reading(directory / file.name));
    const int64_t found = reader.files_.back().size();
    if (found != file.num_bytes)
      throw DataError(cat((directory / file.name).string(), ": expected ", file.num_bytes,
                          " bytes, found ", found));
  }
  for (const CheckpointUnit& unit : reader.manifest_.units)
    for (const CheckpointArray& array : unit.arrays)
      for (const CheckpointMember& member : unit.members)
        reader.places_.emplace(place_key(unit.plane, array.kind, member.name),
                               Place{&unit, &array, &member});
  return reader;
}

void CheckpointReader::verify_file(size_t file) const {
  const CheckpointFile& expected = manifest_.files.at(file);
  std::vector<std::byte> buffer(
      narrow<size_t>(std::min<int64_t>(expected.num_bytes, kHashChunkBytes)));
  Sha256 hash;
  for (int64_t done = 0; done < expected.num_bytes; done += kHashChunkBytes) {
    const auto chunk = std::span(buffer).first(
        narrow<size_t>(std::min<int64_t>(expected.num_bytes - done, kHashChunkBytes)));
    files_[file].read_at(done, chunk);
    hash.update(chunk);
  }
  const std::string found = hash.finish();
  if (found != expected.sha256)
    throw DataError(cat((directory_ / expected.name).string(), ": expected SHA-256 ",
                        expected.sha256, ", found ", found));
}

CheckpointReader::Place CheckpointReader::find(std::string_view plane, std::string_view kind,
                                               std::string_view name) const {
  const auto found = places_.find(place_key(plane, kind, name));
  if (found == places_.end())
    throw DataError(
        cat(directory_.string(), ": has no ", kind, " of ", name, " among the ", plane, " ones"));
  return found->second;
}

void CheckpointReader::read(const Place& place, int64_t first,
                            std::span<std::byte> destination) const {
  const int64_t size = dtype_size(place.array->dtype);
  const int64_t count = narrow<int64_t>(destination.size()) / size;
  const std::vector<int64_t>& shape = place.member->shape;
  const int64_t member_count =
      std::reduce(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  VAX_CHECK(narrow<int64_t>(destination.size()) == count * size && first >= 0 &&
                first <= member_count && count <= member_count - first,
            place.member->name, ": ", count, " elements from ", first, " of ", member_count);
  const int64_t slice_count = place.unit->slice_count;
  int64_t at = place.member->offset + first;
  for (int64_t done = 0; done < count;) {
    const CheckpointSlice& slice = place.array->slices[narrow<size_t>(at / slice_count)];
    const int64_t within = at % slice_count;
    const int64_t n = std::min(count - done, slice_count - within);
    files_[narrow<size_t>(slice.file)].read_at(
        slice.offset_bytes + within * size,
        destination.subspan(narrow<size_t>(done * size), narrow<size_t>(n * size)));
    at += n;
    done += n;
  }
}

}  // namespace vax::io
