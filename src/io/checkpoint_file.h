// Writes the files of a checkpoint. A rank's file is an HDF5 file of contiguous datasets: HDF5 lays
// out the empty file, the data then goes straight to where the datasets are, hashed on the way, so
// that a full disk is an error of write() and never a damaged library state, and so that the
// library's lock is held for the layout only, not while gigabytes are written beside the training.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint_manifest.h"

namespace vax::io {

// One dataset of a rank's file.
struct SliceToWrite {
  std::string dataset;  // absolute path within the file (slice_dataset())
  DType dtype = DType::kF32;
  std::span<const std::byte> bytes;
};

struct WrittenFile {
  CheckpointFile file;                // name, size, hash
  std::vector<int64_t> offset_bytes;  // of each slice, in the order given
};

// What write_rank_file() needs at most on the disk, beyond the bytes of the slices.
int64_t rank_file_overhead_bytes(size_t num_slices);

// Creates `path`, writes, fsyncs. Safe beside other threads that use HDF5. `cancelled` is asked now
// and then; true ends the writing with a WriteError. THROWS WriteError (path, bytes needed and
// free); the file is then removed.
WrittenFile write_rank_file(const std::filesystem::path& path, std::span<const SliceToWrite> slices,
                            const std::function<bool()>& cancelled);

// index.h5 beside the files of `manifest` (which lists the rank files but not yet this one):
// /parameters/NAME, /optimizer/exp_avg/NAME, /optimizer/exp_avg_sq/NAME with whole shapes as
// virtual datasets; attributes step, schema_version, program_version, config. fsyncs. THROWS
// WriteError.
CheckpointFile write_index(const std::filesystem::path& directory,
                           const CheckpointManifest& manifest);

// manifest.json and manifest.json.sha256. fsyncs. THROWS WriteError.
void write_manifest(const std::filesystem::path& directory, const CheckpointManifest& manifest);

}  // namespace vax::io
