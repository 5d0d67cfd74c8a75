// The base library: atomic publishing, hashes, counter-based random numbers, flat layouts.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/flat_layout.h"
#include "base/narrow.h"
#include "base/philox.h"
#include "base/sha256.h"

namespace vax {
namespace {

namespace fs = std::filesystem;

class TemporaryDirectory : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "vax_base_XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { fs::remove_all(directory_); }
  size_t num_entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(directory_), {}));
  }
  fs::path directory_;
};

using AtomicFile = TemporaryDirectory;

TEST_F(AtomicFile, ReplacesTheOldContent) {
  publish_text(directory_ / "f", "old");
  publish_text(directory_ / "f", "new");
  EXPECT_EQ(read_file(directory_ / "f"), "new");
  EXPECT_EQ(num_entries(), 1U);
}

TEST_F(AtomicFile, WhatKilledProcessesLeftIsRemovedAndNothingElse) {
  // A process that is killed in the middle has no chance to tidy up.
  if (const pid_t child = ::fork(); child == 0) {
    publish_file(directory_ / "f", [](const fs::path& path) {
      std::ofstream(path) << "half";
      ::_exit(0);
    });
  } else {
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  }
  fs::create_directories(directory_ / ".d.tmp12" / "inside");
  for (const char* name : {"kept.tmp12", ".kept.tmp", ".kept.tmp12x", ".kept.tmp12-old", ".kept"})
    publish_text(directory_ / name, "");
  EXPECT_EQ(num_entries(), 7U);
  remove_temporaries(directory_);
  EXPECT_EQ(num_entries(), 5U);
  EXPECT_FALSE(fs::exists(directory_ / ".d.tmp12"));
  remove_temporaries(directory_ / "nowhere");
}

TEST_F(AtomicFile, KeepsTheOldContentWhenWritingFails) {
  publish_text(directory_ / "f", "old");
  EXPECT_THROW(publish_file(directory_ / "f",
                            [](const fs::path& path) {
                              std::ofstream(path) << "half";
                              throw DataError("disk full");
                            }),
               DataError);
  EXPECT_EQ(read_file(directory_ / "f"), "old");
  EXPECT_EQ(num_entries(), 1U);
}

TEST_F(AtomicFile, PublishesADirectoryWhole) {
  const auto write = [](const char* text) {
    return [text](const fs::path& path) { std::ofstream(path / "a") << text; };
  };
  const auto is_own = [](const std::string& name) { return name == "a" || name == "old"; };
  publish_directory(directory_ / "d", is_own, write("1"));
  std::ofstream(directory_ / "d" / "old") << "own, but no more written";
  fs::create_directory(directory_ / "d" / "foreign");
  std::ofstream(directory_ / "d" / "foreign" / "notes") << "kept";
  publish_directory(directory_ / "d", is_own, write("2"));
  EXPECT_EQ(read_file(directory_ / "d" / "a"), "2");
  EXPECT_EQ(read_file(directory_ / "d" / "foreign" / "notes"), "kept");
  EXPECT_FALSE(fs::exists(directory_ / "d" / "old"));
  const auto fail = [](const fs::path&) { throw DataError("no"); };
  EXPECT_THROW(publish_directory(directory_ / "d", is_own, fail), DataError);
  EXPECT_EQ(read_file(directory_ / "d" / "a"), "2");
  EXPECT_EQ(num_entries(), 1U);
}

TEST_F(AtomicFile, ErrorsNameThePath) {
  try {
    publish_text(directory_ / "missing" / "f", "x");
    FAIL() << "no error";
  } catch (const WriteError& e) {
    EXPECT_NE(std::string(e.what()).find("missing/f"), std::string::npos) << e.what();
  }
  EXPECT_THROW(read_file(directory_ / "none"), DataError);
  EXPECT_THROW(read_file(directory_), DataError);
}

TEST_F(AtomicFile, HashOfAFileIsThatOfItsText) {
  publish_text(directory_ / "f", "abc");
  // FIPS 180-4's example.
  const std::string expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  EXPECT_EQ(sha256_of_text("abc"), expected);
  EXPECT_EQ(sha256_of_file(directory_ / "f"), expected);
}

TEST(Philox, GivesThePublishedVectors) {
  // Known answers of Random123's kat_vectors for philox4x32-10.
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, NormalNumbersHaveTheirMoments) {
  double sum = 0, squares = 0;
  constexpr uint32_t kDraws = 50000;
  for (uint32_t i = 0; i < kDraws; ++i) {
    const PhiloxCounter bits = philox4x32({i, 0, 0, 0}, philox_key(1, 2));
    for (const float x : normal_pair(bits[0], bits[1])) {
      sum += x;
      squares += x * x;
    }
  }
  // Five standard errors of the mean (1 / sqrt(n)) and of the variance (sqrt(2 / n)), n = 100,000.
  EXPECT_NEAR(sum / (2 * kDraws), 0, 5 * 0.0032);
  EXPECT_NEAR(squares / (2 * kDraws), 1, 5 * 0.0045);
}

TEST(Narrow, RefusesWhatDoesNotFit) {
  EXPECT_EQ(narrow<int>(int64_t{7}), 7);
  EXPECT_THROW(narrow<int>(int64_t{1} << 40), std::logic_error);
  EXPECT_THROW(narrow<unsigned>(-1), std::logic_error);
}

TEST(FlatLayout, MembersOfAGroupLieBackToBack) {
  FlatUnit unit{.name = "u"};
  unit.add_group(0, {{.name = "norm", .shape = {5}, .decay = false}});
  unit.add_group(1, {{.name = "q", .shape = {3, 5}}, {.name = "k", .shape = {1, 5}}});
  EXPECT_EQ(unit.groups[0].offset, 0);
  EXPECT_EQ(unit.groups[1].offset, kGroupAlignment);
  EXPECT_EQ(unit.groups[1].shape, (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(unit.groups[1].members[1].offset, kGroupAlignment + 15);
  EXPECT_EQ(unit.count % kGroupAlignment, 0);
  EXPECT_GE(unit.count, kGroupAlignment + 20);
  EXPECT_EQ(num_parameters({unit}), 25);
}

}  // namespace
}  // namespace vax
