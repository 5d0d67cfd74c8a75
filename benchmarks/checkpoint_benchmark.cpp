// Rates of a rank's checkpoint file against plain files of the same size on the same disk, taken in
// turns: checkpoint_benchmark DIRECTORY MIB ROUNDS. Every write ends with fsync; what is read was
// just written, so reading shows the work of the program (hashes, copies), not of the disk.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "base/stopwatch.h"
#include "io/checkpoint_file.h"
#include "io/checkpoint_reader.h"
#include "io/posix_file.h"

namespace {

namespace fs = std::filesystem;
using vax::Stopwatch;

constexpr size_t kPiece = size_t{4} << 20;

struct Measure {
  std::string name;
  std::function<void()> body;
  std::vector<double> seconds;
};

// As dd bs=4M conv=fsync.
void write_plain(const fs::path& path, const std::vector<std::byte>& data) {
  auto file = vax::io::PosixFile::create(path, path);
  for (size_t begin = 0; begin < data.size(); begin += kPiece)
    file.write(std::span(data).subspan(begin, std::min(kPiece, data.size() - begin)));
  file.sync();
  file.close();
}

void read_plain(const fs::path& path) {
  const auto file = vax::io::PosixFile::open_for_reading(path);
  std::vector<std::byte> piece(kPiece);
  for (int64_t begin = 0; begin < file.size(); begin += static_cast<int64_t>(kPiece))
    file.read_at(begin, std::span(piece).first(static_cast<size_t>(
                            std::min<int64_t>(static_cast<int64_t>(kPiece), file.size() - begin))));
}

// A checkpoint of one unit.
vax::io::CheckpointManifest describe(const vax::io::WrittenFile& written, int64_t count) {
  vax::io::CheckpointManifest manifest{.program_version = "benchmark"};
  manifest.units.push_back(
      {.plane = "trainable", .name = "unit", .count = count, .slice_count = count});
  vax::io::CheckpointUnit& unit = manifest.units.back();
  unit.members.push_back({.name = "weight", .shape = {count}});
  unit.arrays.push_back({.kind = std::string(vax::io::kParameters),
                         .slices = {{.file = 0, .offset_bytes = written.offset_bytes.at(0)}}});
  manifest.files.push_back(written.file);
  return manifest;
}

void run(const fs::path& directory, int64_t mebibytes, int rounds) {
  std::vector<std::byte> data(static_cast<size_t>(mebibytes) << 20), back(data.size());
  for (size_t i = 0; i < data.size(); i += 8)
    data[i] = static_cast<std::byte>(i * 2654435761U >> 24);
  const auto count = static_cast<int64_t>(data.size() / sizeof(float));
  const fs::path plain = directory / "plain", checkpoint = directory / "checkpoint";
  fs::create_directories(checkpoint);
  const std::vector<vax::io::SliceToWrite> slices = {
      {.dataset = "/trainable/parameters/unit", .dtype = vax::io::DType::kF32, .bytes = data}};
  std::vector<Measure> measures;
  measures.push_back({"write, plain", [&] { write_plain(plain, data); }, {}});
  measures.push_back({"write, checkpoint",
                      [&] {
                        const auto written = vax::io::write_rank_file(checkpoint / "rank-00000.h5",
                                                                      slices, [] { return false; });
                        vax::io::write_manifest(checkpoint, describe(written, count));
                      },
                      {}});
  measures.push_back({"read, plain", [&] { read_plain(plain); }, {}});
  measures.push_back({"verify, checkpoint",
                      [&] { vax::io::CheckpointReader::open(checkpoint).verify_file(0); },
                      {}});
  measures.push_back({"read, checkpoint",
                      [&] {
                        const auto reader = vax::io::CheckpointReader::open(checkpoint);
                        reader.read(reader.find("trainable", vax::io::kParameters, "weight"), 0,
                                    back);
                      },
                      {}});
  for (int round = 0; round < rounds; ++round)
    for (Measure& measure : measures) {
      const Stopwatch watch;
      measure.body();
      measure.seconds.push_back(watch.elapsed_s());
    }
  for (Measure& measure : measures) {
    std::ranges::sort(measure.seconds);
    const auto rate = [&](double seconds) {
      return static_cast<double>(data.size()) / 1e6 / seconds;
    };
    std::printf("%-20s %7.0f MB/s (%.0f to %.0f)\n", measure.name.c_str(),
                rate(measure.seconds[measure.seconds.size() / 2]), rate(measure.seconds.back()),
                rate(measure.seconds.front()));
  }
  if (back != data) std::printf("what was read differs from what was written\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: checkpoint_benchmark DIRECTORY MIB ROUNDS\n");
    return 2;
  }
  try {
    run(argv[1], std::atoll(argv[2]), std::max(1, std::atoi(argv[3])));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
