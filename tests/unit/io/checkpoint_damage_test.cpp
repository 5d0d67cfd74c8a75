// Damage of every kind to a checkpoint's files is found by open() or verify_file(), and named.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <random>

#include "base/atomic_file.h"
#include "base/sha256.h"
#include "io/checkpoint_reader.h"
#include "io_test_support.h"
#include "sample_checkpoint.h"

namespace vax::io {
namespace {

namespace fs = std::filesystem;
using testing::ScratchDirectory;

void load(const fs::path& directory) {
  const CheckpointReader reader = CheckpointReader::open(directory);
  for (size_t file = 0; file < reader.manifest().files.size(); ++file) reader.verify_file(file);
}

void expect_found(const fs::path& directory, const std::vector<std::string>& parts) {
  testing::expect_data_error([&] { load(directory); }, parts);
}

void flip(const fs::path& path, int64_t at, unsigned char mask) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const auto byte = static_cast<unsigned char>(file.get());
  file.seekp(at);
  file.put(static_cast<char>(byte ^ mask));
}

class CheckpointDamage : public ::testing::Test {
 protected:
  CheckpointDamage() { manifest_ = testing::write_sample_checkpoint(directory_, 3); }

  ScratchDirectory scratch_;
  fs::path directory_ = scratch_ / "step-000120";
  CheckpointManifest manifest_;
};

// Only the file in question is hashed: that is what has to find the damage.
void load_for(const fs::path& directory, const std::string& name) {
  const CheckpointReader reader = CheckpointReader::open(directory);
  const std::vector<CheckpointFile>& files = reader.manifest().files;
  const auto file = std::ranges::find(files, name, &CheckpointFile::name);
  if (file != files.end()) reader.verify_file(static_cast<size_t>(file - files.begin()));
}

TEST_F(CheckpointDamage, EveryByteOfEveryFile) {
  std::mt19937 random(3);
  for (const std::string& name : testing::list_directory(directory_)) {
    const auto size = static_cast<int64_t>(fs::file_size(directory_ / name));
    for (int64_t at = 0; at < size; ++at) {
      const auto mask = static_cast<unsigned char>(1U << random() % 8);
      flip(directory_ / name, at, mask);
      EXPECT_THROW(load_for(directory_, name), DataError) << name << " byte " << at;
      flip(directory_ / name, at, mask);
    }
  }
  load(directory_);
}

TEST_F(CheckpointDamage, TheFileIsNamed) {
  flip(directory_ / "rank-00001.h5", 3000, 1);
  expect_found(directory_, {"step-000120/rank-00001.h5", "SHA-256", manifest_.files[1].sha256});
  flip(directory_ / "rank-00001.h5", 3000, 1);
  flip(directory_ / "manifest.json", 30, 1);
  expect_found(directory_, {"step-000120/manifest.json", "manifest.json.sha256", "expected"});
}

TEST_F(CheckpointDamage, OtherSizes) {
  const fs::path path = directory_ / "rank-00002.h5";
  const auto size = fs::file_size(path);
  for (const uintmax_t found : {uintmax_t{0}, size - 1, size + 1}) {
    fs::resize_file(path, found);
    expect_found(directory_, {"rank-00002.h5", cat("expected ", size, " bytes, found ", found)});
  }
}

TEST_F(CheckpointDamage, SwappedFiles) {
  fs::rename(directory_ / "rank-00000.h5", directory_ / "x");
  fs::rename(directory_ / "rank-00001.h5", directory_ / "rank-00000.h5");
  fs::rename(directory_ / "x", directory_ / "rank-00001.h5");
  expect_found(directory_, {"rank-0000"});
}

TEST_F(CheckpointDamage, MissingFiles) {
  for (const std::string& name : testing::list_directory(directory_)) {
    fs::rename(directory_ / name, scratch_ / "away");
    expect_found(directory_, {name, "No such file"});
    fs::rename(scratch_ / "away", directory_ / name);
  }
  expect_found(scratch_ / "nowhere", {"nowhere/manifest.json", "No such file"});
}

TEST_F(CheckpointDamage, WhatIsNoFile) {
  fs::remove(directory_ / "rank-00001.h5");
  fs::create_directory(directory_ / "rank-00001.h5");
  expect_found(directory_, {"rank-00001.h5", "regular file"});
  fs::remove(directory_ / "rank-00001.h5");
  // A pipe that nobody writes to must not make a reader wait.
  ASSERT_EQ(::mkfifo((directory_ / "rank-00001.h5").c_str(), 0600), 0);
  expect_found(directory_, {"rank-00001.h5", "regular file"});
}

TEST_F(CheckpointDamage, TheHashFileIsStrict) {
  const std::string hash = sha256_of_file(directory_ / "manifest.json");
  for (const std::string& text :
       {std::string(), hash, hash + "  manifest.json", hash + " manifest.json\n",
        hash + "  manifest.json\n\n", "A" + hash.substr(1) + "  manifest.json\n"}) {
    testing::write_text(directory_ / "manifest.json.sha256", text);
    expect_found(directory_, {"manifest.json"});
  }
  testing::write_text(directory_ / "manifest.json.sha256", std::string(1 << 20, 'a'));
  expect_found(directory_, {"manifest.json.sha256", "at most 256 bytes"});
}

// A manifest with its own hash, as an attacker can make one.
TEST_F(CheckpointDamage, PathsThatLeaveTheDirectory) {
  CheckpointManifest manifest = manifest_;
  manifest.files[1].name = "../rank-00001.h5";
  write_manifest(directory_, manifest);
  expect_found(directory_, {"files[1]", "plain name", "../rank-00001.h5"});
}

}  // namespace
}  // namespace vax::io
