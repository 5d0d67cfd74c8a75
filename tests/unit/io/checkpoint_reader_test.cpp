// Writing and reading a checkpoint: values at any number of ranks, ranges that cross slices, equal
// bytes for equal state, cancelling.
#include "io/checkpoint_reader.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <numeric>
#include <thread>

#include "base/atomic_file.h"
#include "base/sha256.h"
#include "io_test_support.h"
#include "sample_checkpoint.h"

namespace vax::io {
namespace {

using testing::sample_bytes;
using testing::ScratchDirectory;
using testing::write_sample_checkpoint;

int64_t count_of(const CheckpointMember& member) {
  return std::accumulate(member.shape.begin(), member.shape.end(), int64_t{1}, std::multiplies<>());
}

// Every range of every array of `reader` against the formula.
void check_all_ranges(const CheckpointReader& reader) {
  const CheckpointManifest manifest = testing::sample_manifest();
  for (size_t u = 0; u < manifest.units.size(); ++u) {
    const CheckpointUnit& unit = manifest.units[u];
    for (size_t k = 0; k < unit.arrays.size(); ++k) {
      const DType dtype = unit.arrays[k].dtype;
      for (const CheckpointMember& member : unit.members) {
        const auto place = reader.find(unit.plane, unit.arrays[k].kind, member.name);
        for (int64_t first = 0; first <= count_of(member); ++first) {
          for (int64_t n = 0; first + n <= count_of(member); ++n) {
            std::vector<std::byte> found(static_cast<size_t>(n * dtype_size(dtype)));
            reader.read(place, first, found);
            ASSERT_EQ(found, sample_bytes(u, k, dtype, member.offset + first, n))
                << member.name << " " << first << " + " << n;
          }
        }
      }
    }
  }
}

TEST(CheckpointReader, AnyRangeFromAnyNumberOfRanks) {
  for (const int ranks : {1, 2, 3, 5, 16, 80}) {
    SCOPED_TRACE(ranks);
    const ScratchDirectory scratch;
    write_sample_checkpoint(scratch / "c", ranks);
    const CheckpointReader reader = CheckpointReader::open(scratch / "c");
    EXPECT_EQ(reader.manifest().world_size, ranks);
    for (size_t file = 0; file < reader.manifest().files.size(); ++file) reader.verify_file(file);
    check_all_ranges(reader);
  }
}

TEST(CheckpointReader, SurvivesMoves) {
  const ScratchDirectory scratch;
  write_sample_checkpoint(scratch / "c", 3);
  CheckpointReader first = CheckpointReader::open(scratch / "c");
  const CheckpointReader second = std::move(first);
  check_all_ranges(second);
}

TEST(CheckpointReader, WhatIsMissingIsNamed) {
  const ScratchDirectory scratch;
  write_sample_checkpoint(scratch / "c", 2);
  const CheckpointReader reader = CheckpointReader::open(scratch / "c");
  testing::expect_data_error([&] { reader.find("trainable", kParameters, "other.weight"); },
                             {"c: ", "parameters", "other.weight", "trainable"});
  testing::expect_data_error([&] { reader.find("frozen", kExpAvg, "model.embed_tokens.weight"); },
                             {"optimizer/exp_avg"});
}

TEST(CheckpointReader, RangesBeyondTheParameterAreErrorsOfTheProgram) {
  const ScratchDirectory scratch;
  write_sample_checkpoint(scratch / "c", 2);
  const CheckpointReader reader = CheckpointReader::open(scratch / "c");
  const auto place = reader.find("trainable", kParameters, "lm_head.weight");
  std::vector<std::byte> bytes(8);
  EXPECT_THROW(reader.read(place, 8, bytes), std::logic_error);
  EXPECT_THROW(reader.read(place, -1, bytes), std::logic_error);
  EXPECT_THROW(reader.read(place, 0, std::span(bytes).first(3)), std::logic_error);
}

TEST(CheckpointReader, OtherFilesInTheDirectoryDoNotMatter) {
  const ScratchDirectory scratch;
  write_sample_checkpoint(scratch / "c", 2);
  testing::write_text(scratch / "c" / "notes.txt", "mine");
  EXPECT_EQ(CheckpointReader::open(scratch / "c").manifest().files.size(), 3U);
}

TEST(CheckpointFile, EqualStateEqualBytes) {
  const ScratchDirectory scratch;
  const CheckpointManifest first = write_sample_checkpoint(scratch / "a", 2);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // times of files are in seconds
  const CheckpointManifest second = write_sample_checkpoint(scratch / "b", 2);
  EXPECT_EQ(manifest_text(first), manifest_text(second));
  for (const CheckpointFile& file : first.files)
    EXPECT_EQ(sha256_of_file(scratch / "a" / file.name), file.sha256);
}

TEST(CheckpointFile, EmptySlicesAreLeftOut) {
  const ScratchDirectory scratch;
  const std::vector<std::byte> data(8);
  const std::vector<SliceToWrite> slices = {{"/a/empty", DType::kF32, {}},
                                            {"/a/full", DType::kF32, data}};
  const WrittenFile written = write_rank_file(scratch / "r.h5", slices, nullptr);
  EXPECT_EQ(written.offset_bytes.at(0), 0);
  EXPECT_GT(written.offset_bytes.at(1), 0);
  EXPECT_EQ(read_file(scratch / "r.h5").find("empty"), std::string::npos);
}

TEST(CheckpointFile, OverheadCoversLongNames) {
  const ScratchDirectory scratch;
  const std::vector<std::byte> data(4);
  for (const size_t num_slices : {0, 1, 10, 1000}) {
    std::vector<SliceToWrite> slices;
    for (size_t i = 0; i < num_slices; ++i) {
      std::string name = std::to_string(i);
      name += std::string(255 - name.size(), 'x');
      slices.push_back({"/trainable/optimizer/exp_avg/" + name, DType::kBF16, data});
    }
    const WrittenFile written = write_rank_file(scratch / "r.h5", slices, nullptr);
    const auto data_bytes = static_cast<int64_t>(4 * num_slices);
    EXPECT_LE(written.file.num_bytes, data_bytes + rank_file_overhead_bytes(num_slices));
    EXPECT_GE(written.file.num_bytes, data_bytes);
  }
}

TEST(CheckpointFile, CancelledWritingLeavesNothing) {
  const ScratchDirectory scratch;
  const std::vector<std::byte> data(32 << 20);
  int asked = 0;
  testing::expect_error<WriteError>(
      [&] {
        write_rank_file(scratch / "r.h5", {{{"/a", DType::kF32, data}}},
                        [&] { return ++asked == 4; });
      },
      {"r.h5", "cancelled"});
  EXPECT_EQ(asked, 4);
  EXPECT_TRUE(testing::list_directory(scratch.path()).empty());
}

TEST(CheckpointFile, SeveralThreadsWriteAtOnce) {
  const ScratchDirectory scratch;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      for (int round = 0; round < 5; ++round)
        write_sample_checkpoint(scratch / std::to_string(i), 3);
    });
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 4; ++i) check_all_ranges(CheckpointReader::open(scratch / std::to_string(i)));
}

}  // namespace
}  // namespace vax::io
