// Writes checkpoints for tests/parity/checkpoint_files_parity.py.
//   write_checkpoint sample DIR RANKS   the checkpoint of sample_checkpoint.h
//   write_checkpoint large DIR          an index of 80 layers, 9 tensors each, 3 arrays, 8 ranks,
//                                       without rank files; prints the seconds it took
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "base/error.h"
#include "sample_checkpoint.h"

namespace vax::io {
namespace {

namespace fs = std::filesystem;

constexpr int kLargeRanks = 8;

// Shapes of a Llama block of hidden size 8192; the elements are nowhere.
CheckpointUnit large_unit(int layer) {
  const std::string prefix = cat("model.layers.", layer);
  CheckpointUnit unit{"trainable", prefix, 0, 0, {}, {}};
  const auto add = [&](const char* name, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    unit.members.push_back({prefix + "." + name + ".weight", shape, unit.count});
    unit.count += count;
  };
  for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) add(name, {8192, 8192});
  for (const char* name : {"gate_proj", "up_proj"}) add(name, {28672, 8192});
  add("down_proj", {8192, 28672});
  for (const char* name : {"norm1", "norm2"}) add(name, {8192});
  unit.slice_count = (unit.count + kLargeRanks - 1) / kLargeRanks;
  for (const std::string_view kind : {kParameters, kExpAvg, kExpAvgSq}) {
    unit.arrays.push_back({std::string(kind), DType::kF32, {}});
    for (int rank = 0; rank < kLargeRanks; ++rank) unit.arrays.back().slices.push_back({rank, 0});
  }
  return unit;
}

void write_large_index(const fs::path& directory) {
  CheckpointManifest manifest;
  for (int rank = 0; rank < kLargeRanks; ++rank)
    manifest.files.push_back({cat("rank-0000", rank, ".h5"), 0, ""});
  for (int layer = 0; layer < 80; ++layer) manifest.units.push_back(large_unit(layer));
  const auto begin = std::chrono::steady_clock::now();
  const CheckpointFile written = write_index(directory, manifest);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  std::printf("%.3f s, %lld bytes\n", seconds.count(), static_cast<long long>(written.num_bytes));
}

int run(int argc, char** argv) {
  const std::string mode = argc > 2 ? argv[1] : "";
  if (mode == "sample" && argc == 4)
    testing::write_sample_checkpoint(argv[2], std::atoi(argv[3]));
  else if (mode == "large" && argc == 3)
    write_large_index(argv[2]);
  else
    return 2;
  return 0;
}

}  // namespace
}  // namespace vax::io

int main(int argc, char** argv) {
  try {
    return vax::io::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
