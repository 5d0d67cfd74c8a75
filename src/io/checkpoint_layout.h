// Private to this folder.
// What HDF5 contributes to the files of a checkpoint: bytes around the data, made in memory. The
// library is kept away from the disk because it does not survive a write that fails: closing the
// file fails too, its handle leaks, and the next file may be hit (seen with 1.10.8).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint_file.h"
#include "io/checkpoint_manifest.h"

namespace vax::io {

// Bytes of a file that are not of a dataset.
struct FilePiece {
  int64_t offset_bytes = 0;
  std::vector<std::byte> bytes;
};

struct FileLayout {
  int64_t num_bytes = 0;              // of the whole file
  std::vector<int64_t> offset_bytes;  // of each dataset, in the order given; 0 where it is empty
  std::vector<FilePiece> pieces;      // ascending; with the datasets they make up the file
};

// A file with one contiguous dataset per slice that is not empty, under its path. The same slices
// give the same bytes. `name` is for messages. THROWS WriteError.
FileLayout lay_out_file(std::span<const SliceToWrite> slices, const std::string& name);

// The bytes of index.h5 (io/checkpoint_file.h, write_index()). THROWS WriteError.
std::vector<std::byte> index_bytes(const CheckpointManifest& manifest, const std::string& name);

}  // namespace vax::io
