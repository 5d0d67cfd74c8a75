// A small checkpoint of known numbers, written as a job of any number of ranks would write it: two
// trainable units with moments (the second moment in bf16), one frozen unit in bf16; shapes of one,
// two and three dimensions that slices cut within rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/checkpoint_file.h"
#include "io/checkpoint_manifest.h"

namespace vax::io::testing {

// Everything but slices and files, which depend on the ranks.
CheckpointManifest sample_manifest();

// Element `i` of a unit (its number in the manifest) in array `kind` (its number in the unit). The
// numbers of bf16 arrays are integers up to 256, which bf16 holds.
float sample_element(size_t unit, size_t kind, int64_t i, DType dtype);

// Writes rank files, index and manifest of `num_ranks` ranks to `directory`, which is made. Ranks
// whose part of every unit is empty write no file.
CheckpointManifest write_sample_checkpoint(const std::filesystem::path& directory, int num_ranks);

// The bytes of elements [first, first + n) of an array.
std::vector<std::byte> sample_bytes(size_t unit, size_t kind, DType dtype, int64_t first,
                                    int64_t n);

// As the writer of real checkpoints cuts and places the slices of `manifest`'s arrays: fills
// slices, slice_count and files (without the index). `bytes_of(unit, kind, dtype, first, n)` makes
// the data; all of a rank's data are in memory at once.
template <typename BytesOf>
void write_rank_files(const std::filesystem::path& directory, CheckpointManifest& manifest,
                      int num_ranks, BytesOf&& bytes_of) {
  for (CheckpointUnit& unit : manifest.units)
    unit.slice_count = (unit.count + num_ranks - 1) / num_ranks;
  for (int rank = 0; rank < num_ranks; ++rank) {
    std::vector<std::vector<std::byte>> data;
    std::vector<CheckpointArray*> arrays;
    std::vector<SliceToWrite> slices;
    for (size_t u = 0; u < manifest.units.size(); ++u) {
      CheckpointUnit& unit = manifest.units[u];
      const int64_t first = rank * unit.slice_count;
      if (first >= unit.count) continue;
      const int64_t n = std::min(unit.slice_count, unit.count - first);
      for (size_t k = 0; k < unit.arrays.size(); ++k) {
        data.push_back(bytes_of(u, k, unit.arrays[k].dtype, first, n));
        arrays.push_back(&unit.arrays[k]);
        slices.push_back({slice_dataset(unit, unit.arrays[k]), unit.arrays[k].dtype, {}});
      }
    }
    if (slices.empty()) continue;
    for (size_t i = 0; i < slices.size(); ++i) slices[i].bytes = data[i];
    const std::string digits = std::to_string(rank);
    const std::string name = "rank-" + std::string(5 - digits.size(), '0') + digits + ".h5";
    const WrittenFile written = write_rank_file(directory / name, slices, nullptr);
    const auto file = static_cast<int64_t>(manifest.files.size());
    manifest.files.push_back(written.file);
    for (size_t i = 0; i < slices.size(); ++i)
      arrays[i]->slices.push_back({file, written.offset_bytes[i]});
  }
}

}  // namespace vax::io::testing
