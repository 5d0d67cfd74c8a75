#include "io/checkpoint_directory.h"

#include <gtest/gtest.h>

#include <limits>

#include "io_test_support.h"

namespace vax::io {
namespace {

namespace fs = std::filesystem;
using testing::list_directory;
using testing::ScratchDirectory;
using Names = std::vector<std::string>;

void write_checkpoint(const fs::path& root, int64_t step, const std::string& content = "x") {
  create_writing_directory(root, step);
  testing::write_text(writing_path(root, step) / "manifest.json", content);
  publish_checkpoint(root, step);
}

TEST(CheckpointDirectory, Names) {
  EXPECT_EQ(checkpoint_path("c", 120), "c/step-000120");
  EXPECT_EQ(checkpoint_path("c", 0), "c/step-000000");
  EXPECT_EQ(checkpoint_path("c", 12345678), "c/step-12345678");
  for (const int64_t step : {int64_t{0}, int64_t{7}, int64_t{999999}, int64_t{1000000},
                             std::numeric_limits<int64_t>::max()})
    EXPECT_EQ(step_of_checkpoint(checkpoint_path("a/b", step)), step);
  EXPECT_EQ(step_of_checkpoint("a/step-000120/"), 120);
  for (const char* name : {"", "/", "step-", "step-120", "step-0000120", "step--00001",
                           "step-+00001", "step-00012x", "step-000120.rejected", ".step-000120",
                           "Step-000120", "step-99999999999999999999", "step-000120/x"})
    EXPECT_EQ(step_of_checkpoint(name), -1) << name;
}

TEST(CheckpointDirectory, ListsNewestFirst) {
  const ScratchDirectory scratch;
  const fs::path root = scratch / "out" / "checkpoints";
  EXPECT_TRUE(list_checkpoints(root).empty());
  for (const int64_t step : {5, 1000000, 20}) write_checkpoint(root, step);
  testing::write_text(root / "step-000007", "a file");
  fs::create_directory(root / "step-000008.rejected");
  create_writing_directory(root, 30);
  std::vector<int64_t> steps;
  for (const CheckpointEntry& entry : list_checkpoints(root)) {
    steps.push_back(entry.step);
    EXPECT_EQ(entry.path, checkpoint_path(root, entry.step));
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{1000000, 20, 5}));
  testing::write_text(scratch / "file", "");
  testing::expect_data_error([&] { list_checkpoints(scratch / "file"); },
                             {"file", "Not a directory"});
}

TEST(CheckpointDirectory, WritingDirectoryIsEmpty) {
  const ScratchDirectory scratch;
  create_writing_directory(scratch.path(), 3);
  testing::write_text(writing_path(scratch.path(), 3) / "left over", "");
  create_writing_directory(scratch.path(), 3);
  EXPECT_TRUE(list_directory(scratch / ".step-000003.writing").empty());
  testing::write_text(scratch / "file", "");
  testing::expect_error<WriteError>([&] { create_writing_directory(scratch / "file" / "c", 1); },
                                    {"file"});
}

TEST(CheckpointDirectory, PublishingKeepsWhatHadTheName) {
  const ScratchDirectory scratch;
  write_checkpoint(scratch.path(), 3, "old");
  write_checkpoint(scratch.path(), 3, "newer");
  write_checkpoint(scratch.path(), 3, "newest");
  EXPECT_EQ(list_directory(scratch.path()),
            (Names{"step-000003", "step-000003.superseded", "step-000003.superseded.2"}));
  EXPECT_EQ(fs::file_size(scratch / "step-000003" / "manifest.json"), 6U);
  EXPECT_EQ(fs::file_size(scratch / "step-000003.superseded" / "manifest.json"), 3U);
  testing::expect_error<WriteError>([&] { publish_checkpoint(scratch.path(), 4); },
                                    {".step-000004.writing", "No such file"});
}

TEST(CheckpointDirectory, PrunesTheOldest) {
  const ScratchDirectory scratch;
  for (const int64_t step : {1, 2, 3, 4, 5}) write_checkpoint(scratch.path(), step);
  // A deletion that was interrupted, of a step that has been written again since.
  fs::create_directories(scratch / ".step-000002.deleting");
  testing::write_text(scratch / ".step-000002.deleting" / "left", "");
  set_aside(scratch / "step-000001", "rejected");
  prune_checkpoints(scratch.path(), 2);
  EXPECT_EQ(list_directory(scratch.path()),
            (Names{"step-000001.rejected", "step-000004", "step-000005"}));
  prune_checkpoints(scratch.path(), 2);
  EXPECT_EQ(list_checkpoints(scratch.path()).size(), 2U);
  EXPECT_THROW(prune_checkpoints(scratch.path(), 0), std::logic_error);
}

TEST(CheckpointDirectory, RemovesOnlyWhatIsUnfinished) {
  const ScratchDirectory scratch;
  remove_unfinished(scratch / "nowhere");
  write_checkpoint(scratch.path(), 1);
  const Names others = {".hidden.writing", ".step-000001.other",   ".step-1.writing",
                        "step-000001",     "step-000002.rejected", "step-000003.writing"};
  for (const std::string& name : others) fs::create_directories(scratch / name);
  for (const char* name : {".step-000004.writing", ".step-000001.deleting"}) {
    fs::create_directories(scratch / name);
    testing::write_text(scratch / name / "rank-00000.h5", "half");
  }
  remove_unfinished(scratch.path());
  EXPECT_EQ(list_directory(scratch.path()), others);
}

TEST(CheckpointDirectory, SetAsideFindsAFreeName) {
  const ScratchDirectory scratch;
  for (int i = 0; i < 3; ++i) {
    write_checkpoint(scratch.path(), 7);
    const fs::path expected =
        scratch / (i == 0 ? "step-000007.rejected" : cat("step-000007.rejected.", i + 1));
    EXPECT_EQ(set_aside(fs::path((scratch / "step-000007").string() + "/"), "rejected"), expected);
    EXPECT_TRUE(fs::exists(expected / "manifest.json"));
  }
  testing::expect_error<WriteError>([&] { set_aside(scratch / "step-000009", "rejected"); },
                                    {"step-000009", "No such file"});
}

TEST(CheckpointDirectory, FreeSpace) {
  const ScratchDirectory scratch;
  require_free_space(scratch.path(), 1);
  require_free_space(scratch / "not" / "yet" / "there", 1);
  require_free_space("relative/not/there", 0);
  const auto free_bytes = static_cast<int64_t>(fs::space(scratch.path()).available);
  testing::expect_error<WriteError>([&] { require_free_space(scratch / "sub", 2 * free_bytes); },
                                    {"sub", cat(2 * free_bytes, " bytes needed"), " bytes free"});
}

}  // namespace
}  // namespace vax::io
