// What is refused when a file is opened, and writing on in an existing one.
#include "io/posix_file.h"

#include <sys/stat.h>

#include <array>

#include "base/atomic_file.h"
#include "io_test_support.h"

namespace vax::io {
namespace {

using testing::expect_data_error;
using testing::ScratchDirectory;
using testing::write_text;

TEST(PosixFile, OnlyRegularFilesAreOpened) {
  const ScratchDirectory scratch;
  ASSERT_EQ(::mkfifo((scratch / "pipe").c_str(), 0600), 0);
  // A pipe that nobody writes to must not hang.
  for (const std::filesystem::path& path :
       {scratch / "pipe", std::filesystem::path("/dev/zero"), scratch.path()})
    expect_data_error([&] { PosixFile::open_for_reading(path); },
                      {path.string(), "expected a regular file"});
  expect_data_error([&] { PosixFile::open_for_appending("/dev/null", 0); },
                    {"/dev/null", "expected a regular file"});
  expect_data_error([&] { PosixFile::open_for_appending(scratch / "none", 0); },
                    {"none", "No such file"});
}

TEST(PosixFile, AppendsAfterTheBytesThatStay) {
  const ScratchDirectory scratch;
  write_text(scratch / "a", "0123456789");
  PosixFile file = PosixFile::open_for_appending(scratch / "a", 4);
  EXPECT_EQ(read_file(scratch / "a"), "0123");
  file.write("ab");
  file.write("c");
  EXPECT_EQ(read_file(scratch / "a"), "0123abc");
}

TEST(PosixFile, CopiesRangesLargerThanItsBuffer) {
  const ScratchDirectory scratch;
  std::string content;
  for (int i = 0; content.size() < 2'500'000; ++i) content += std::to_string(i);
  write_text(scratch / "a", content);
  const PosixFile source = PosixFile::open_for_reading(scratch / "a");
  PosixFile copy = PosixFile::create(scratch / "b", scratch / "b");
  source.copy_to(copy, 0, 3);
  source.copy_to(copy, 7, 0);
  source.copy_to(copy, 11, 2'400'000);
  EXPECT_EQ(read_file(scratch / "b"), content.substr(0, 3) + content.substr(11, 2'400'000));
  expect_data_error([&] { source.copy_to(copy, 0, source.size() + 1); }, {"the file ends"});
}

}  // namespace
}  // namespace vax::io
