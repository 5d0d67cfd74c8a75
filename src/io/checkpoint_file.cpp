#include "io/checkpoint_file.h"

#include <algorithm>
#include <system_error>

#include "base/error.h"
#include "base/narrow.h"
#include "base/sha256.h"
#include "io/checkpoint_layout.h"
#include "io/posix_file.h"

namespace vax::io {
namespace {

namespace fs = std::filesystem;

// Small enough that a cancelled writing ends soon, large enough for any disk.
constexpr size_t kChunkBytes = size_t{4} << 20;

// A file written from its first byte to its last, hashed in the same sweep, removed when that
// fails.
class HashedFile {
 public:
  // Reserves `num_bytes`.
  HashedFile(const fs::path& path, int64_t num_bytes, std::function<bool()> cancelled)
      : path_(path),
        num_bytes_(num_bytes),
        cancelled_(std::move(cancelled)),
        file_(PosixFile::create(path, path)) {
    guarded([&] { file_.reserve(num_bytes); });
  }

  void write(std::span<const std::byte> bytes) {
    guarded([&] {
      for (size_t done = 0; done < bytes.size(); done += kChunkBytes) {
        if (cancelled_ && cancelled_()) throw WriteError(cat(path_.string(), ": cancelled"));
        const auto chunk = bytes.subspan(done, std::min(kChunkBytes, bytes.size() - done));
        file_.write(chunk);
        hash_.update(chunk);
        written_ += narrow<int64_t>(chunk.size());
      }
    });
  }

  CheckpointFile finish() {
    VAX_CHECK(written_ == num_bytes_, path_.string(), ": ", written_, " bytes of ", num_bytes_);
    guarded([&] {
      file_.sync();
      file_.close();
    });
    return {path_.filename().string(), written_, hash_.finish()};
  }

 private:
  void guarded(const std::function<void()>& body) {
    try {
      body();
    } catch (...) {
      std::error_code ignored;
      fs::remove(path_, ignored);
      throw;
    }
  }

  fs::path path_;
  int64_t num_bytes_;
  std::function<bool()> cancelled_;
  PosixFile file_;
  Sha256 hash_;
  int64_t written_ = 0;
};

CheckpointFile write_whole(const fs::path& path, std::span<const std::byte> bytes) {
  HashedFile file(path, narrow<int64_t>(bytes.size()), nullptr);
  file.write(bytes);
  return file.finish();
}

struct Part {
  int64_t offset_bytes;
  std::span<const std::byte> bytes;
};

std::vector<Part> parts_in_file_order(std::span<const SliceToWrite> slices,
                                      const FileLayout& layout) {
  std::vector<Part> parts;
  for (size_t i = 0; i < slices.size(); ++i)
    if (!slices[i].bytes.empty()) parts.push_back({layout.offset_bytes[i], slices[i].bytes});
  for (const FilePiece& piece : layout.pieces) parts.push_back({piece.offset_bytes, piece.bytes});
  std::ranges::sort(parts, {}, &Part::offset_bytes);
  return parts;
}

}  // namespace

int64_t rank_file_overhead_bytes(size_t num_slices) {
  // Counted with HDF5 1.10: a superblock and a few groups, blocks of 2 KiB that are not full, and
  // per dataset an object header of 272 bytes and a link with its name.
  return 32768 + 2048 * narrow<int64_t>(num_slices);
}

WrittenFile write_rank_file(const fs::path& path, std::span<const SliceToWrite> slices,
                            const std::function<bool()>& cancelled) {
  const FileLayout layout = lay_out_file(slices, path.string());
  HashedFile file(path, layout.num_bytes, cancelled);
  for (const Part& part : parts_in_file_order(slices, layout)) file.write(part.bytes);
  return {file.finish(), layout.offset_bytes};
}

CheckpointFile write_index(const fs::path& directory, const CheckpointManifest& manifest) {
  const fs::path path = directory / "index.h5";
  return write_whole(path, index_bytes(manifest, path.string()));
}

void write_manifest(const fs::path& directory, const CheckpointManifest& manifest) {
  const std::string text = manifest_text(manifest);
  const CheckpointFile written =
      write_whole(directory / "manifest.json", std::as_bytes(std::span(text)));
  const std::string hash_line = written.sha256 + "  manifest.json\n";
  write_whole(directory / "manifest.json.sha256", std::as_bytes(std::span(hash_line)));
}

}  // namespace vax::io
